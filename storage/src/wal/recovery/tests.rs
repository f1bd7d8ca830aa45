//! Which segments count.

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::wal::segment::Room;

/// Which segments count of those that begin at a position in a term, and which do not.
fn sorted_out(all: &[(u64, u64)]) -> [Vec<(u64, u64)>; 2] {
    let disk = SimulatedDisk::new();
    disk.create_folder("wal/0").unwrap();
    for &(first, term) in all {
        let header = segment::Header {
            wal: 0,
            term,
            first,
            durable: first,
            sequence: 0,
        };
        Segment::create(&disk, &header, Room::Fresh(8192)).unwrap();
    }
    let (counting, superseded) = without_superseded(Segment::list(&disk, 0).unwrap());
    let names = |segments: Vec<Segment>| segments.iter().map(|s| (s.first, s.term)).collect();
    [names(counting), names(superseded)]
}

#[test]
fn what_lies_behind_the_cut_of_a_later_term_counts_no_more() {
    // The second term went on at 4096, before it could let go of what the first had behind that.
    let [counting, superseded] = sorted_out(&[(0, 1), (8192, 1), (16384, 1), (4096, 2)]);
    assert_eq!(counting, [(0, 1), (4096, 2)]);
    assert_eq!(superseded, [(8192, 1), (16384, 1)]);
    // And the third where it had begun.
    let [counting, superseded] = sorted_out(&[(0, 1), (4096, 2), (4096, 3), (8192, 1)]);
    assert_eq!(counting, [(0, 1), (4096, 3)]);
    assert_eq!(superseded, [(4096, 2), (8192, 1)]);
}
