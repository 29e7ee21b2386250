//! Transfers on files with each engine.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use aio::{AllocateMode, Engine, File, IoThread, Stream, block_on, spawn, testing};
use iobuf::IoBuf;

fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Auto, Engine::Threads];
    if aio::io_uring_available() {
        engines.push(Engine::Uring);
    } else {
        println!("skipped: io_uring is refused");
    }
    engines
}

fn open(engine: Engine) -> (File, std::fs::File) {
    // Not in memory: the engines must have something to do.
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a temporary file");
    let fd = OwnedFd::from(file.try_clone().expect("a second descriptor"));
    (File::with_engine(fd, engine).expect("the engine"), file)
}

#[test]
fn what_is_written_is_read_back_and_zeroes_behind_the_end() {
    for engine in engines() {
        let (file, host) = open(engine);
        block_on(async {
            file.write(100, IoBuf::copy_of(b"hello")).await.expect("writes");
            file.write_sync(105, IoBuf::copy_of(b" world")).await.expect("writes");
            file.sync_data().await.expect("syncs");
            let buf = IoBuf::copy_of(&[0xff; 32]);
            file.read(98, buf.clone()).await.expect("reads");
            assert_eq!(&buf.to_vec()[..13], b"\0\0hello world", "{engine:?}");
            assert!(buf.is_zero(13, 19), "{engine:?}");
            file.read(1 << 40, buf.clone()).await.expect("reads");
            assert!(buf.is_zero(0, 32), "{engine:?}");
        });
        assert_eq!(host.metadata().expect("a file").len(), 111);
    }
}

#[test]
fn more_segments_than_a_system_call_takes_are_transferred() {
    for engine in engines() {
        let (file, host) = open(engine);
        let parts = (0..3000u32).map(|n| IoBuf::copy_of(&n.to_le_bytes()));
        let buf = IoBuf::concat(parts);
        block_on(async {
            file.write(0, buf.clone()).await.expect("writes");
            let again = IoBuf::concat((0..6000).map(|_| IoBuf::zeroed(2)));
            file.read(0, again.clone()).await.expect("reads");
            assert_eq!(again.to_vec(), buf.to_vec(), "{engine:?}");
        });
        assert_eq!(host.metadata().expect("a file").len(), 12_000);
    }
}

#[test]
fn thousands_of_tasks_share_one_file() {
    for engine in engines() {
        let (file, host) = open(engine);
        block_on(async {
            let tasks: Vec<_> = (0..2000u64)
                .map(|n| {
                    let file = file.clone();
                    spawn(async move {
                        let buf = IoBuf::copy_of(&n.to_le_bytes());
                        let write = async {
                            if n % 50 == 0 { file.write_sync(n * 8, buf).await } else { file.write(n * 8, buf).await }
                        };
                        write.await.expect("writes");
                        let buf = IoBuf::zeroed(8);
                        file.read(n * 8, buf.clone()).await.expect("reads");
                        assert_eq!(buf.to_vec(), n.to_le_bytes());
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        });
        let mut bytes = vec![0; 16_000];
        host.read_exact_at(&mut bytes, 0).expect("all is there");
        assert!(bytes.chunks(8).enumerate().all(|(n, bytes)| bytes == (n as u64).to_le_bytes()), "{engine:?}");
    }
}

#[test]
fn a_dropped_future_leaves_its_buffer_to_the_operation() {
    struct Owner(Arc<()>);
    for engine in engines() {
        let (file, host) = open(engine);
        let alive = Arc::new(());
        let io_thread = IoThread::start("drops").expect("a thread");
        let (file, owner) = (file.clone(), Arc::new(Owner(Arc::clone(&alive))));
        io_thread.handle().spawn(async move {
            let mut memory = vec![7u8; 4096].into_boxed_slice();
            let start = std::ptr::NonNull::new(memory.as_mut_ptr()).expect("memory");
            assert_eq!(Arc::strong_count(&owner.0), 2);
            let keep = Arc::new((memory, owner));
            // SAFETY: the boxed memory lives as long as `keep`, and nothing else refers to it.
            let buf = unsafe { IoBuf::from_raw([(start, 4096)], keep) };
            let mut write = Box::pin(file.write_sync(0, buf));
            let polled = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending | Poll::Ready(Ok(()))));
        });
        // Dropping the thread drains the operation; only then the memory goes.
        drop(io_thread);
        while Arc::strong_count(&alive) != 1 {
            std::thread::yield_now();
        }
        let mut bytes = [0; 4096];
        host.read_exact_at(&mut bytes, 0).expect("it was written");
        assert_eq!(bytes, [7; 4096], "{engine:?}");
    }
}

#[test]
fn errors_of_the_host_arrive() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let read_only = std::fs::File::open(file.path()).expect("opens");
    for engine in engines() {
        let file = File::with_engine(read_only.try_clone().expect("a descriptor").into(), engine).expect("the engine");
        let error = block_on(file.write(0, IoBuf::zeroed(512))).expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{engine:?}");
        let error = block_on(file.read(u64::MAX - 1000, IoBuf::zeroed(512))).expect_err("too far");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{engine:?}");
    }
}

#[test]
fn ranges_are_punched() {
    for engine in engines() {
        let (file, _host) = open(engine);
        block_on(async {
            file.write(0, IoBuf::copy_of(&[1; 65536])).await.expect("writes");
            match file.allocate(AllocateMode::PunchHole, 4096, 8192).await {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    println!("skipped: the file system can't punch holes");
                    return;
                }
                result => result.expect("punches"),
            }
            let buf = IoBuf::zeroed(65536);
            file.read(0, buf.clone()).await.expect("reads");
            assert!(buf.is_zero(4096, 8192) && !buf.is_zero(4095, 1) && !buf.is_zero(12288, 1));
        });
    }
}

#[test]
fn operations_work_without_a_reactor() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let (file, _host) = open(Engine::Auto);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut write = Box::pin(file.write_sync(0, IoBuf::copy_of(b"x")));
    while write.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}

#[test]
fn files_in_a_deterministic_run_behave_as_ever() {
    for seed in 0..10 {
        let (file, host) = open(Engine::Auto);
        testing::run(seed, async {
            let tasks: Vec<_> = (0..10u8)
                .map(|n| {
                    let file = file.clone();
                    spawn(async move { file.write(0, IoBuf::copy_of(&[n])).await.expect("writes") })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        });
        let mut winner = [0; 1];
        host.read_exact_at(&mut winner, 0).expect("one was last");
        assert!(winner[0] < 10);
    }
}

#[test]
fn socket_whose_other_owner_has_it_wait_is_not_waited_for() {
    let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let owner = left.try_clone().expect("a clone");
    let stream = Stream::new(left.into()).expect("a stream");
    owner.set_nonblocking(false).expect("calls wait");
    let buf = IoBuf::zeroed(64 << 10);
    let read = stream.try_read(&buf).expect_err("nothing was sent");
    assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);
    let full = loop {
        if let Err(error) = stream.try_write(&buf) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    drop(right);
}

#[test]
fn a_socket_carries_more_than_its_buffer() {
    let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let (left, right) = (Stream::new(left.into()).expect("left"), Stream::new(right.into()).expect("right"));
    let thread = IoThread::start("sender").expect("a thread");
    let data: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let buf = IoBuf::copy_of(&data);
    let sender = thread.handle().spawn(async move {
        left.write_all(buf).await.expect("sends");
        left.shutdown();
    });
    block_on(async {
        let buf = IoBuf::zeroed(data.len());
        right.read_exact(buf.clone()).await.expect("receives");
        assert!(buf.to_vec() == data);
        let error = right.read_exact(IoBuf::zeroed(1)).await.expect_err("closed");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        sender.await;
    });
}
