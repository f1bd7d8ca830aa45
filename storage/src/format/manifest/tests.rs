#![expect(clippy::indexing_slicing, reason = "the bytes are the test's own")]

use super::*;
use crate::format::manifest::file::BLOCK_BYTES_UNSAID;

fn manifest() -> Manifest {
    let run = |queue, base, first_row, count| Run {
        queue,
        base,
        first_row,
        count,
        span: 0,
    };
    let file = |key: &str, runs: Vec<Run>| File {
        key: key.to_owned(),
        bytes: BLOCK_BYTES_UNSAID + 1,
        rows: runs.iter().map(|r| r.count).sum(),
        runs,
        blocks: vec![1, 2],
        stored_first_ms: Some(-5),
        stored_last_ms: Some(9),
        block_bytes: 0,
        added: 2,
        columns: 99,
        listed: 3,
        compacted: true,
        bodiless: Some(3),
        hidden: true,
    };
    Manifest {
        topic: 7,
        version: 3,
        next_file: 2,
        files: vec![
            file("a", vec![run(0, 5, 0, 10), run(2, 0, 10, 1)]),
            file("b", vec![run(0, 15, 0, 3)]),
        ],
        bounds: vec![Bounds {
            queue: 9,
            first: 4,
            end: 4,
        }],
        table: Some(Table {
            location: "file:///x".to_owned(),
            columns: 99,
            snapshots: vec![2, 3],
            parts: vec![Part {
                made: 3,
                last: 0,
                is_whole: true,
                checksum: 7,
            }],
            metadata_checksum: Some(1),
            list_checksum: Some(2),
        }),
        waiting: vec![Waiting {
            version: 2,
            until_ms: 60_000,
            keys: vec!["data/a.parquet".to_owned()],
        }],
        holes: Vec::new(),
        mark: None,
        family: None,
        log_firsts: vec![LogFirst { queue: 0, first: 7 }],
    }
}

#[test]
fn a_manifest_comes_back_as_it_was() {
    assert_eq!(Manifest::decode(&manifest().encode()), Ok(manifest()));
}

#[test]
fn the_worked_example_of_the_format_holds() {
    let example = Manifest {
        topic: 7,
        version: 1,
        next_file: 1,
        files: vec![File {
            key: "a".to_owned(),
            bytes: 200,
            rows: 2,
            runs: vec![Run {
                queue: 0,
                base: 5,
                first_row: 0,
                count: 2,
                span: 0,
            }],
            blocks: vec![0xdead_beef],
            ..File::default()
        }],
        ..Manifest::default()
    };
    let bytes: String = example
        .encode()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        bytes,
        "4d504d414e4930312300000024cc3bd0\
         0907000000000000001001180122140a016110c80118022204100520022a04efbeadde"
    );
}

/// Offsets 5 to 14 of queue 0 in a run of ten messages that covers twenty, a hole behind it, and another in queue 4.
fn sparse() -> Manifest {
    let mut sparse = manifest();
    sparse.files[0].runs[0].span = 20;
    sparse.files[1].runs[0].base = 30;
    let hole = |queue, first, end| Hole { queue, first, end };
    sparse.holes = vec![hole(0, 25, 30), hole(4, 0, 7)];
    sparse.mark = Some(Mark {
        at_ms: 77,
        ends: vec![hole::QueueEnd { queue: 0, end: 30 }],
    });
    sparse
}

#[test]
fn holes_are_of_another_version_and_are_no_damage() {
    let sparse = sparse();
    let bytes = sparse.encode();
    assert_eq!(&bytes[..8], MAGIC_SPARSE);
    assert_eq!(Manifest::decode(&bytes), Ok(sparse.clone()));
    assert_eq!(sparse.gaps(), []);
    let mut early = bytes.to_vec();
    early[..8].copy_from_slice(MAGIC);
    assert!(
        Manifest::decode(&early).is_err(),
        "the first version has none"
    );
    let index = Index::from(sparse);
    assert!(index.has_holes());
    assert_eq!(
        (index.extent(0), index.extent(4)),
        (Some(5..33), Some(0..7))
    );
    assert_eq!(index.find(0, 24).map(|(_, run)| run.count), Some(10));
    assert_eq!(index.find(0, 25), None);
    let behind = |queue, offset| index.behind_hole(queue, offset);
    assert_eq!(
        (behind(0, 25), behind(0, 29), behind(4, 0)),
        (Some(30), Some(30), Some(7))
    );
    assert_eq!(
        (behind(0, 24), behind(0, 30), behind(5, 0)),
        (None, None, None)
    );
}

#[test]
fn a_sparse_run_that_covers_no_more_than_its_messages_is_damage() {
    let mut small = sparse();
    small.files[0].runs[0].span = 10;
    assert!(Manifest::decode(&small.encode()).is_err());
    small.files[0].runs[0].span = 26;
    assert!(
        Manifest::decode(&small.encode()).is_err(),
        "it lies in the next one"
    );
}

#[test]
fn no_flipped_bit_is_believed() {
    for manifest in [manifest(), sparse()] {
        assert_no_flip_is_believed(&manifest);
    }
}

fn assert_no_flip_is_believed(manifest: &Manifest) {
    let bytes = manifest.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..length]).is_err());
    }
}

#[test]
fn offsets_that_lie_in_two_files_are_damage() {
    let mut twice = manifest();
    twice.files[1].runs[0].base = 14;
    assert!(Manifest::decode(&twice.encode()).is_err());
}

#[test]
fn offsets_are_found_in_their_files() {
    let index = Index::from(manifest());
    assert_eq!(index.extent(0), Some(5..18));
    assert_eq!(index.extent(1), None);
    assert_eq!((index.log_first(0), index.log_first(2)), (7, 0));
    assert!(index.queues().eq([0, 2, 9]));
    assert_eq!(index.extent(9), Some(4..4), "all of it was deleted");
    let found = |queue, offset| index.find(queue, offset).map(|(f, _)| f.key.as_str());
    assert_eq!(found(0, 14), Some("a"));
    assert_eq!(found(0, 15), Some("b"));
    assert_eq!(found(2, 0), Some("a"));
    assert_eq!((found(0, 4), found(0, 18), found(1, 0)), (None, None, None));
}

#[test]
fn what_is_kept_is_said_only_where_the_runs_do_not_say_it() {
    let mut manifest = manifest();
    let mut kept = manifest.extents();
    assert_eq!(kept[&0], 5..18);
    manifest.set_extents(&kept);
    assert_eq!(manifest.bounds.len(), 1);
    kept.insert(0, 7..20);
    manifest.set_extents(&kept);
    assert_eq!(manifest.bounds.len(), 2);
    assert_eq!(manifest.extents(), kept);
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
    manifest.bounds[0].end = 17;
    assert!(Manifest::decode(&manifest.encode()).is_err());
}

#[test]
fn gaps_are_what_is_kept_and_lies_in_no_file() {
    let mut manifest = manifest();
    assert_eq!(manifest.gaps(), []);
    manifest.files[1].runs[0].base = 16;
    let kept = [(0, 3..21), (2, 0..1)].into();
    manifest.set_extents(&kept);
    assert_eq!(manifest.gaps(), [(0, 3..5), (0, 15..16), (0, 19..21)]);
    manifest.set_extents(&[(0, 16..21), (2, 1..1)].into());
    assert_eq!(manifest.gaps(), [(0, 19..21)]);
}
