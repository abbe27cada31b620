//! Tests of the pool and of pipes.

use super::*;

fn pipe() -> Pipe {
    Pipe::new(BufferPool::new(), BlockSize::Small)
}

#[test]
fn an_empty_pipe_holds_no_block_and_the_pool_keeps_it() {
    let mut pipe = pipe();
    assert!(pipe.feed(b"abc"));
    assert!(pipe.holds_block());
    pipe.approve(3);
    pipe.wrote(3);
    assert!(!pipe.holds_block());
    assert_eq!(pipe.pool().free_bytes(), SMALL);
}

#[test]
fn a_head_that_grows_or_shrinks_stays_next_to_its_body() {
    for head in ["H", "HEAD-as-long-as-it-was", &"x".repeat(400), &"y".repeat(3000), &"z".repeat(60_000)] {
        let mut pipe = pipe();
        assert!(pipe.feed(b"GET / HTTP/1.1\r\n\r\nbody"));
        assert!(pipe.replace_head(18, head.as_bytes()), "{}", head.len());
        assert_eq!(pipe.raw(), b"body");
        pipe.approve(4);
        assert_eq!(pipe.out(), format!("{head}body").as_bytes());
    }
}

#[test]
fn a_head_does_not_run_over_bytes_that_wait_before_it() {
    let mut pipe = pipe();
    assert!(pipe.feed(b"firstOLDbody"));
    pipe.approve(5);
    pipe.wrote(2);
    assert!(pipe.replace_head(3, b"a longer head"));
    pipe.approve(4);
    assert_eq!(pipe.out(), b"rsta longer headbody");
}

#[test]
fn a_pinned_message_can_be_written_again_until_it_is_unpinned() {
    let mut pipe = pipe();
    assert!(pipe.feed(b"request+next"));
    pipe.pin();
    pipe.approve(7);
    pipe.wrote(7);
    pipe.rewind();
    assert_eq!(pipe.out(), b"request");
    pipe.wrote(7);
    pipe.unpin();
    pipe.rewind();
    assert_eq!((pipe.out(), pipe.raw()), (b"".as_slice(), b"+next".as_slice()));
}

#[test]
fn a_kept_head_can_be_patched_to_another_length() {
    let mut pipe = pipe();
    assert!(pipe.feed(b"n: 9\r\nbody"));
    pipe.pin();
    pipe.approve(10);
    pipe.wrote(4);
    assert!(!pipe.replace_kept(3..4, b"10"), "only before anything is sent again");
    pipe.rewind();
    assert!(pipe.replace_kept(3..4, b"10"));
    assert_eq!(pipe.out(), b"n: 10\r\nbody");
    assert!(pipe.replace_kept(3..5, b"7"));
    assert_eq!(pipe.out(), b"n: 7\r\nbody");
}

#[test]
fn a_message_too_large_for_a_small_block_moves_to_a_large_one() {
    let mut pipe = pipe();
    let bytes: Vec<u8> = (0..60_000u32).map(|index| index as u8).collect();
    for part in bytes.chunks(1000) {
        assert!(pipe.feed(part));
    }
    assert_eq!(pipe.raw(), bytes);
    assert_eq!(pipe.pool().large_in_use(), 1);
    assert!(!pipe.feed(&[0; LARGE]));
    drop(pipe);
}

#[test]
fn large_blocks_are_given_out_up_to_the_budget() {
    let pool = BufferPool::new();
    let mut pipes: Vec<_> =
        (0..LARGE_BUDGET + 1).map(|_| Pipe::new(Rc::clone(&pool), BlockSize::Large)).collect();
    for pipe in &mut pipes {
        assert!(pipe.feed(b"x"));
    }
    assert_eq!(pool.large_in_use(), LARGE_BUDGET);
    drop(pipes);
    assert_eq!(pool.large_in_use(), 0);
    assert_eq!(pool.free_bytes(), KEEP_LARGE * LARGE + SMALL);
}

#[test]
fn bytes_of_our_own_are_appended_as_far_as_they_fit() {
    let mut pipe = pipe();
    let count = pipe.append(&[b'x'; 2 * LARGE]);
    assert!(count > 0 && count < SMALL);
    assert_eq!(pipe.out().len(), count);
    pipe.wrote(count);
    assert!(pipe.is_flushed() && !pipe.holds_block());
}
