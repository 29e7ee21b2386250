//! Tasks, wake-ups, timers and threads.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use aio::{Clock, Handle, IoThread, VirtualClock, block_on, sleep, spawn, spawn_blocking, testing, yield_now};

/// Becomes ready when another task or thread says so.
#[derive(Default)]
struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    fn open(&self) {
        let wakers = {
            let mut state = self.0.lock().expect("no panic");
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn wait(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock().expect("no panic");
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[test]
fn ten_thousand_tasks_all_end() {
    let sum = block_on(async {
        let tasks: Vec<_> = (0..10_000u64)
            .map(|n| {
                spawn(async move {
                    for _ in 0..n % 5 {
                        yield_now().await;
                    }
                    n
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    });
    assert_eq!(sum, 49_995_000);
}

#[test]
fn wakes_across_threads_are_never_lost() {
    let threads = [IoThread::start("one").expect("a thread"), IoThread::start("two").expect("a thread")];
    let rounds = 5_000;
    let gates: Arc<Vec<Gate>> = Arc::new((0..2 * rounds).map(|_| Gate::default()).collect());
    let players: Vec<_> = threads
        .iter()
        .enumerate()
        .map(|(player, thread)| {
            let gates = Arc::clone(&gates);
            thread.handle().spawn(async move {
                for round in 0..rounds {
                    gates[2 * round + player].wait().await;
                    if let Some(next) = gates.get(2 * round + player + 1) {
                        next.open();
                    }
                }
            })
        })
        .collect();
    gates[0].open();
    block_on(async {
        for player in players {
            player.await;
        }
    });
}

#[test]
fn a_task_stays_on_its_thread() {
    let thread = IoThread::start("mine").expect("a thread");
    let gate = Arc::new(Gate::default());
    let theirs = Arc::clone(&gate);
    let handle = thread.handle().clone();
    let task = thread.handle().spawn(async move {
        assert!(handle.is_current());
        theirs.wait().await;
        spawn_blocking(|| ()).await;
        assert!(handle.is_current());
        std::thread::current().name().map(str::to_owned)
    });
    gate.open();
    assert_eq!(block_on(task).as_deref(), Some("mine"));
    assert!(!thread.handle().is_current());
}

#[test]
fn dropping_a_thread_waits_for_its_tasks() {
    let ended = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&ended);
    let thread = IoThread::start("drains").expect("a thread");
    let handle = thread.handle().clone();
    handle.spawn(async move {
        sleep(Duration::from_millis(20)).await;
        spawn_blocking(|| ()).await;
        theirs.store(true, Ordering::SeqCst);
    });
    drop(thread);
    assert!(ended.load(Ordering::SeqCst));
    // The reactor is gone: a task is dropped, not kept.
    let token = Arc::new(());
    let theirs = Arc::clone(&token);
    handle.spawn(async move { drop(theirs) });
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    let order = Arc::new(Mutex::new(Vec::new()));
    block_on(async {
        let tasks: Vec<_> = [30u64, 10, 20]
            .into_iter()
            .map(|millis| {
                let order = Arc::clone(&order);
                spawn(async move {
                    sleep(Duration::from_millis(millis)).await;
                    order.lock().expect("no panic").push(millis);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
    assert_eq!(*order.lock().expect("no panic"), [10, 20, 30]);
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    let clock = VirtualClock::new();
    block_on(async {
        let mut sleep = Box::pin(Clock::Virtual(Arc::clone(&clock)).sleep(Duration::from_secs(1)));
        poll_fn(|context| {
            assert!(sleep.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(clock.next_deadline(), Some(Duration::from_secs(1)));
        drop(sleep);
        assert_eq!(clock.next_deadline(), None);
    });
}

#[test]
fn a_stepped_clock_wakes_what_is_due_and_nothing_else() {
    let clock = VirtualClock::new();
    let thread = IoThread::start("waits").expect("a thread");
    let woken = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = [1u64, 2, 3]
        .into_iter()
        .map(|seconds| {
            let (sleep, woken) =
                (Clock::Virtual(Arc::clone(&clock)).sleep(Duration::from_secs(seconds)), woken.clone());
            thread.handle().spawn(async move {
                sleep.await;
                woken.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    clock.advance(Duration::from_secs(2));
    let mut tasks = tasks.into_iter();
    block_on(async {
        tasks.next().expect("three").await;
        tasks.next().expect("three").await;
    });
    assert_eq!(woken.load(Ordering::SeqCst), 2);
    clock.advance(Duration::from_secs(1));
    block_on(tasks.next().expect("three"));
    assert_eq!(clock.now(), Duration::from_secs(3));
}

#[test]
fn sleeping_works_without_a_reactor() {
    let mut future = Box::pin(sleep(Duration::from_millis(5)));
    let thread = std::thread::current();
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread)));
    let mut context = std::task::Context::from_waker(&waker);
    while future.as_mut().poll(&mut context).is_pending() {
        std::thread::park();
    }
    assert!(Handle::current().is_none());
}

#[test]
#[should_panic(expected = "aio::block_on inside of a task of a reactor")]
fn a_nested_block_on_says_what_is_wrong() {
    block_on(async { block_on(async {}) });
}

#[test]
fn a_panic_ends_its_task_and_goes_on_where_it_is_awaited() {
    let thread = IoThread::start("survives").expect("a thread");
    let task = thread.handle().spawn(async { std::panic::resume_unwind(Box::new("expected")) });
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(async { task.await as () })));
    assert_eq!(result.expect_err("the panic").downcast_ref::<&str>(), Some(&"expected"));
    assert_eq!(block_on(thread.handle().spawn(async { 5 })), 5);
    // The thread's own reactor is free again, too.
    assert_eq!(block_on(async { 6 }), 6);
}

#[test]
fn more_blocking_jobs_than_threads_all_end() {
    let ended = block_on(async {
        let jobs: Vec<_> =
            (0..300).map(|_| spawn(spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))))).collect();
        let mut ended = 0;
        for job in jobs {
            job.await;
            ended += 1;
        }
        ended
    });
    assert_eq!(ended, 300);
}

/// Which order do three tasks with two steps, a job and a timer each run in?
fn order_of(seed: u64) -> Vec<u32> {
    let order = Arc::new(Mutex::new(Vec::new()));
    testing::run(seed, async {
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let order = Arc::clone(&order);
                spawn(async move {
                    order.lock().expect("no panic").push(n);
                    yield_now().await;
                    order.lock().expect("no panic").push(10 + n);
                    spawn_blocking(|| ()).await;
                    order.lock().expect("no panic").push(20 + n);
                    sleep(Duration::from_secs(u64::from(100 - n))).await;
                    order.lock().expect("no panic").push(30 + n);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(aio::now(), Duration::from_secs(100));
    });
    Arc::into_inner(order).expect("all tasks ended").into_inner().expect("no panic")
}

#[test]
fn a_deterministic_run_repeats_itself_and_differs_by_seed() {
    let runs: Vec<Vec<u32>> = (0..20).map(order_of).collect();
    for (seed, run) in runs.iter().enumerate() {
        assert_eq!(*run, order_of(seed as u64));
        assert_eq!(run[12..], [33, 32, 31, 30]);
    }
    assert!(runs.iter().any(|run| *run != runs[0]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_deterministic_run_finds_a_deadlock() {
    testing::run(1, async { Gate::default().wait().await });
}
