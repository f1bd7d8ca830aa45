//! What a cursor keeps besides where it stands, for as long as it holds something.
//!
//! There may be millions of cursors, and nearly all of them hold nothing: such a one is a number and an empty
//! place. Reading what is not there finds it empty; the first change makes room, and [`Kept::rest`] gives it back.
//!
//! **Invariant.** A cursor that holds no message keeps nothing: leases, facts and chains are those of messages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use crate::broker::group::Facts;
use crate::broker::group::lease::Leases;
use crate::broker::group::window::Window;

/// Messages that were delivered or passed over, and what is known of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Holdings {
    pub(super) window: Window,
    pub(super) leases: Leases,
    /// Of pending and parked ones that have any.
    pub(super) facts: BTreeMap<u64, Facts>,
    /// The parked ones that wait for no earlier message.
    pub(super) free: BTreeSet<u64>,
    /// Pending and parked ones of each message group.
    pub(super) chains: BTreeMap<u64, BTreeSet<u64>>,
}

static NOTHING: LazyLock<Holdings> = LazyLock::new(Holdings::default);

/// Room for [`Holdings`], taken by the first of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Option<Box<Holdings>>);

impl Kept {
    /// Gives the room back when nothing is held.
    pub(super) fn rest(&mut self) {
        self.0
            .take_if(|kept| kept.window.delivered() == 0 && kept.window.parked() == 0);
    }
}

impl Deref for Kept {
    type Target = Holdings;

    fn deref(&self) -> &Holdings {
        self.0.as_deref().unwrap_or_else(|| &NOTHING)
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Holdings {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::message::Offset;

    use crate::broker::group::Cursor;
    use crate::broker::record::{Acked, Popped};

    /// Bytes of a cursor that holds nothing; there may be millions.
    const IDLE_BYTES: usize = 16;

    #[test]
    fn a_cursor_that_is_done_with_everything_is_a_number_and_an_empty_place() {
        assert_eq!(size_of::<Cursor>(), IDLE_BYTES);
        let mut cursor = Cursor::starting_at(Offset(7));
        cursor.popped(&Popped {
            lease: 1,
            until_ms: 10,
            fresh_from: 7,
            fresh: 3,
            ..Popped::default()
        });
        cursor.rest();
        assert!(cursor.kept.0.is_some(), "it holds three messages");
        cursor.acked(&Acked {
            offsets: vec![7, 8, 9],
            ..Acked::default()
        });
        cursor.rest();
        assert!(cursor.kept.0.is_none());
        assert_eq!(cursor, Cursor::starting_at(Offset(10)));
    }
}
