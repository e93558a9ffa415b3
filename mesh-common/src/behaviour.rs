//! What an application was seen to do that socket redirect may break.
//!
//! Bits of a `u64`: kernel programs set them, the start-up probe says which of them this kernel forbids.

macro_rules! behaviours {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $label:literal, $words:literal;)*) => {
        $($(#[$doc])* pub const $name: u64 = 1 << $bit;)*

        /// Every behaviour: its bit, its metric label, and its words for a person.
        pub const ALL: &[(u64, &str, &str)] = &[$(($name, $label, $words)),*];
    };
}

behaviours! {
    /// `splice(2)` from a TCP socket: never sees redirected bytes.
    SPLICE = 0, "splice", "splice(2) from a TCP socket";
    /// `ioctl(FIONREAD)` on a TCP socket.
    FIONREAD = 1, "fionread", "ioctl(FIONREAD) on a TCP socket";
    /// `shutdown(SHUT_WR)` on a socket in blocking mode: its next `recv` may fail with `EAGAIN`.
    HALF_CLOSE_BLOCKING = 2, "half_close_blocking", "half-close on a blocking socket";
    /// `recv(MSG_WAITALL)` returns short.
    WAITALL = 3, "waitall", "recv with MSG_WAITALL";
    /// Urgent data is delivered in line.
    OOB = 4, "oob", "urgent (out-of-band) data";
    /// `SO_RCVLOWAT` is ignored.
    RCVLOWAT = 5, "rcvlowat", "SO_RCVLOWAT";
    /// `MSG_ZEROCOPY` completions never arrive.
    ZEROCOPY_SEND = 6, "zerocopy_send", "SO_ZEROCOPY";
    /// kTLS and other upper-layer protocols cannot join.
    ULP = 7, "ulp", "kernel TLS (TCP_ULP)";
    /// `SO_PEEK_OFF` is ignored.
    PEEK_OFF = 8, "peek_off", "SO_PEEK_OFF";
    /// `TCP_INQ` control messages are missing.
    INQ = 9, "inq", "TCP_INQ";
    /// `TCP_ZEROCOPY_RECEIVE` sees no redirected bytes.
    ZEROCOPY_RECEIVE = 10, "zerocopy_receive", "TCP_ZEROCOPY_RECEIVE";
    /// One thread blocks in `recv` while another sends on the same socket: `recv` may fail with `EAGAIN`.
    BLOCKING_THREADS = 11, "blocking_threads", "blocking recv and send by two threads on one socket";
    /// io_uring: its requests are not seen by the observer.
    IO_URING = 12, "io_uring", "io_uring, which cannot be observed";
    /// `TCP_REPAIR`: the socket's sequence numbers are set by hand.
    REPAIR = 13, "repair", "TCP_REPAIR";
    /// `recv(NULL, MSG_TRUNC)` fails with `EFAULT`.
    TRUNC = 14, "trunc", "recv with MSG_TRUNC";
    /// Bytes lay waiting and nobody read them; set by the agent's stall guard, not by a program.
    STALLED = 15, "stalled", "left bytes unread until the stall guard acted";
    /// A blocking `recv` after more than [`LONG_SEND_BYTES`] were sent: it may fail with `EAGAIN`.
    LONG_SEND_BLOCKING = 16, "long_send_blocking", "blocking recv after a long send";
    /// A blocking `recv` did fail with `EAGAIN`, on a socket without a time-out that was in the socket map.
    SPURIOUS_EAGAIN = 17, "spurious_eagain", "a blocking recv failed with EAGAIN because of redirect";
}

/// Bytes sent since the last receive call from which on a blocking one counts as [`LONG_SEND_BLOCKING`].
///
/// A send that waits for room leaves a mark on the socket, and the next acknowledgement then wakes whoever sleeps in `recv`.
/// Less than this never waits: an established socket starts with room for some 46 kB (ten segments of 2.3 kB, twice; Linux's
/// `tcp_sndbuf_expand`), of which the kernel's own structures take a part.
pub const LONG_SEND_BYTES: u64 = 32 * 1024;

/// Returns the words of the lowest behaviour in `bits`, or `None` when no bit is known.
pub fn first_words(bits: u64) -> Option<&'static str> {
    ALL.iter()
        .find(|(bit, ..)| bits & bit != 0)
        .map(|(_, _, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_labels_are_distinct() {
        for (i, (bit, label, _)) in ALL.iter().enumerate() {
            assert_eq!(bit.count_ones(), 1);
            for (other_bit, other_label, _) in &ALL[..i] {
                assert_ne!(bit, other_bit);
                assert_ne!(label, other_label);
            }
        }
    }
}
