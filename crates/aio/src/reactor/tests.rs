use super::*;
use crate::{File, Stream, sleep};
use iobuf::IoBuf;

/// A process that may not use io_uring.
fn refuse_the_ring() {
    with_current(|reactor| *reactor.ring.borrow_mut() = RingState::Refused);
}

#[test]
fn without_a_ring_files_go_to_the_pool_and_sockets_are_polled() {
    let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let (left, right) = (Stream::new(left.into()).expect("left"), Stream::new(right.into()).expect("right"));
    let file = File::new(tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file").into());
    block_on(async {
        refuse_the_ring();
        let echo = spawn(async move {
            let buf = IoBuf::zeroed(5);
            left.read_exact(buf.clone()).await.expect("reads");
            left.write_all(buf).await.expect("writes");
        });
        let timer = spawn(sleep(Duration::from_millis(5)));
        file.write_sync(0, IoBuf::copy_of(b"bytes")).await.expect("writes");
        right.write_all(IoBuf::copy_of(b"hello")).await.expect("writes");
        let buf = IoBuf::zeroed(5);
        right.read_exact(buf.clone()).await.expect("reads");
        assert_eq!(buf.to_vec(), b"hello");
        file.read(0, buf.clone()).await.expect("reads");
        assert_eq!(buf.to_vec(), b"bytes");
        echo.await;
        timer.await;
    });
}

#[test]
fn a_thread_that_sleeps_for_a_socket_is_woken_by_other_threads() {
    for ring in [false, true] {
        let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (left, right) = (Stream::new(left.into()).expect("left"), Stream::new(right.into()).expect("right"));
        let thread = IoThread::start("waits").expect("a thread");
        let reader = thread.handle().spawn(async move {
            if !ring {
                refuse_the_ring();
            }
            left.read_exact(IoBuf::zeroed(1)).await.expect("reads");
        });
        for n in 0..1000 {
            assert_eq!(block_on(thread.handle().spawn(async move { n })), n);
        }
        block_on(right.write_all(IoBuf::zeroed(1))).expect("writes");
        block_on(reader);
    }
}

#[test]
fn a_socket_that_nobody_waits_for_any_more_is_closed() {
    for ring in [false, true] {
        let (left, right) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (left, right) = (Stream::new(left.into()).expect("left"), Stream::new(right.into()).expect("right"));
        block_on(async {
            if !ring {
                refuse_the_ring();
            }
            let waiting = Box::pin(async move { left.readable().await });
            let raced = Box::pin(sleep(Duration::from_millis(1)));
            let (mut waiting, mut raced) = (Some(waiting), raced);
            std::future::poll_fn(|context| {
                if let Some(waiting) = &mut waiting {
                    assert!(waiting.as_mut().poll(context).is_pending(), "nothing was sent");
                }
                raced.as_mut().poll(context)
            })
            .await;
            drop(waiting.take());
            right.readable().await.expect("waits");
            assert_eq!(right.try_read(&IoBuf::zeroed(1)).expect("reads"), 0, "the other end is closed");
        });
    }
}

#[test]
fn a_reactor_ends_although_a_socket_is_waited_for() {
    let (left, _right) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let left = Stream::new(left.into()).expect("left");
    std::thread::spawn(move || {
        block_on(async {
            spawn(async move { left.readable().await });
            yield_now().await;
            yield_now().await;
        });
    })
    .join()
    .expect("the thread ends");
}
