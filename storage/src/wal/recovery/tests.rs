//! Which segments count.

use bytes::BytesMut;

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::format::checksum::count;
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

#[test]
fn what_only_looks_like_a_head_is_passed_over_without_a_checksum() {
    let disk = SimulatedDisk::new();
    disk.create_folder("wal/0").unwrap();
    let start = segment::Header {
        wal: 0,
        term: 5,
        first: 0,
        durable: 0,
        sequence: 0,
    };
    let segment = Segment::create(&disk, &start, Room::Fresh(8192)).unwrap();
    let block = |position| {
        let header = Header {
            wal: 0,
            term: 5,
            sequence: 0,
            position,
            durable: 0,
        };
        block::Builder::new(header, 0, BytesMut::new()).finish().1
    };
    // Each says that it has thousands of records, at a place that is not its own.
    let elsewhere = block(1 << 30);
    let count_at = block::HEADER_BYTES - 12;
    let fake = [
        elsewhere.slice(..count_at),
        Bytes::copy_from_slice(&4000_u32.to_le_bytes()),
        elsewhere.slice(count_at + 4..block::HEADER_BYTES),
    ]
    .concat();
    let mut body = vec![0; segment::HEADER_BYTES];
    body.extend(fake.repeat(8 * block::ALIGN_BYTES));
    let at = body.len() as u64;
    body.extend_from_slice(&block(at - segment::HEADER_BYTES as u64));
    let before = count::bytes();
    let found = stretches(&body.into(), 0, &segment);
    let [Stretch::Unreadable { .. }, Stretch::Block { from, .. }] = &found[..] else {
        panic!("the fakes, and a block behind them: {}", found.len());
    };
    assert_eq!(*from as u64, at);
    assert!(count::bytes() - before < 64 * 1024);
}
