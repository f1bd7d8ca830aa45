//! Files of the format as it was released, whole and damaged, that are opened by every later version.
//!
//! They lie in `tests/fixtures` and are never written again. A new version of the format adds its own beside
//! them, with the bytes that [`made`] gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use millpond_proto::message::ShardId;

use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::format::block::{self, Entry, Kind};
use crate::format::checkpoint::{self, Saved};
use crate::format::checksum::crc32c;
use crate::wal::recovery::{self, Found};
use crate::wal::segment::{Header, Room, Segment};
use crate::wal::spare::{SPARES_MAX, Spares};

const FILE_BYTES: u64 = 20 * 1024;
const BLOCK: u64 = block::ALIGN_BYTES as u64;

macro_rules! fixture {
    ($path:literal) => {
        (
            $path,
            include_bytes!(concat!("../../tests/fixtures/", $path)) as &[u8],
        )
    };
}

/// What lies in the folder: path, bytes.
const FILES: [(&str, &[u8]); 8] = [
    fixture!("v1/whole/wal/0/00000000000000000000-0000000001.log"),
    fixture!("v1/again/wal/0/00000000000000012288-0000000001.log"),
    fixture!("v1/hole/wal/0/00000000000000000000-0000000001.log"),
    fixture!("v1/cut/wal/0/00000000000000000000-0000000001.log"),
    fixture!("v1/cut/wal/0/00000000000000004096-0000000002.log"),
    fixture!("v1/damaged/wal/0/00000000000000000000-0000000001.log"),
    fixture!("v1/whole/checkpoint/00000000000000000003"),
    fixture!("v1/damaged/checkpoint/00000000000000000003"),
];

/// A record in words, as recovery finds it.
fn read(case: &str, files: &BTreeMap<String, Vec<u8>>) -> (Vec<String>, recovery::Recovery) {
    let prefix = format!("v1/{case}/");
    let files = files.iter().filter_map(|(path, bytes)| {
        let path = path.strip_prefix(&prefix)?;
        Some((path.to_owned(), bytes.clone()))
    });
    let disk = SimulatedDisk::holding(&files.collect());
    let mut words = Vec::new();
    let recovery = recovery::recover(&disk, 0, |found| {
        words.push(match found {
            Found::Record {
                entry,
                payload: Some(payload),
                ..
            } => format!(
                "{:?} of shard {}, {}/{}/{}: {}",
                entry.kind,
                entry.shard,
                entry.topic,
                entry.queue,
                entry.offset,
                String::from_utf8_lossy(&payload)
            ),
            Found::Record { entry, .. } => {
                format!("{:?} of shard {}: lost", entry.kind, entry.shard)
            }
            Found::Gap { range, .. } => format!("gap {range:?}"),
        });
    });
    (words, recovery.unwrap())
}

fn kept() -> BTreeMap<String, Vec<u8>> {
    let owned = |&(path, bytes): &(&str, &[u8])| (path.to_owned(), bytes.to_vec());
    FILES.iter().map(owned).collect()
}

fn message(offset: u64, text: &str) -> (Entry, String) {
    let entry = Entry {
        shard: 1,
        kind: Kind::Message,
        length: u32::try_from(text.len()).unwrap(),
        checksum: crc32c(&[text.as_bytes()]),
        topic: 7,
        queue: 2,
        offset,
    };
    (entry, text.to_owned())
}

fn state(text: &str) -> (Entry, String) {
    let (entry, text) = message(0, text);
    let entry = Entry {
        kind: Kind::State,
        topic: 0,
        queue: 0,
        ..entry
    };
    (entry, text)
}

fn header(first: u64, term: u64, sequence: u64) -> Header {
    Header {
        wal: 0,
        term,
        first,
        durable: first,
        sequence,
    }
}

/// Writes a block of one page to where its position says.
fn write(segment: &Segment, sequence: u64, durable: u64, records: &[(Entry, String)]) {
    let header = block::Header {
        wal: 0,
        term: segment.term,
        sequence,
        position: sequence * BLOCK,
        durable,
    };
    let mut block = block::Builder::new(header, records.len(), BytesMut::new());
    for (entry, payload) in records {
        block.push(*entry, |out| out.put_slice(payload.as_bytes()));
    }
    let (_, bytes) = block.finish();
    assert_eq!(bytes.len() as u64, BLOCK);
    let at = segment.file_offset(header.position);
    segment.file.write_durable(&bytes, at).unwrap();
}

/// Makes all files anew, as this version writes them.
fn made() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut keep = |case: &str, disk: &SimulatedDisk| {
        let logs = disk.snapshot().into_iter();
        let logs = logs.filter(|(path, _)| path.ends_with(".log"));
        files.extend(logs.map(|(path, bytes)| (format!("v1/{case}/{path}"), bytes)));
    };
    let disk = || {
        let disk = SimulatedDisk::new();
        disk.create_folder("wal/0").unwrap();
        disk
    };
    let first = |disk: &SimulatedDisk| {
        let segment = Segment::create(disk, &header(0, 1, 0), Room::Fresh(FILE_BYTES)).unwrap();
        write(&segment, 0, 0, &[message(0, "one"), state("two")]);
        segment
    };

    // Closed in order: the last block is the mark.
    let whole = disk();
    let segment = first(&whole);
    write(&segment, 1, BLOCK, &[message(1, "three")]);
    write(&segment, 2, 2 * BLOCK, &[]);
    keep("whole", &whole);
    let path = segment.path.clone();
    let bytes = &whole.snapshot()[&path];
    let at = bytes
        .windows(5)
        .position(|window| window == b"three")
        .unwrap();

    // One bit of a payload, below the mark.
    whole.flip_bit(&path, at * 8 + 1);
    keep("damaged", &whole);
    whole.flip_bit(&path, at * 8 + 1);

    // The same file in its next life, with less written than in the one before.
    let spares = Spares::open(Arc::new(whole.clone()), 0, FILE_BYTES, SPARES_MAX).unwrap();
    spares.keep(vec![segment]).unwrap();
    let room = Room::Spare(spares.take(0).unwrap());
    let segment = Segment::create(&whole, &header(3 * BLOCK, 1, 3), room).unwrap();
    write(&segment, 3, 3 * BLOCK, &[state("four")]);
    keep("again", &whole);

    // Three writes in flight, of which the first did not land.
    let hole = disk();
    let segment = first(&hole);
    write(&segment, 2, BLOCK, &[message(2, "late")]);
    write(&segment, 3, BLOCK, &[message(3, "later")]);
    keep("hole", &hole);

    // And what the next incarnation made of it.
    let segment = Segment::create(&hole, &header(BLOCK, 2, 1), Room::Fresh(FILE_BYTES)).unwrap();
    write(&segment, 1, BLOCK, &[message(1, "instead")]);
    keep("cut", &hole);

    let shards = [
        Saved::new(ShardId(0), 4096, Bytes::from_static(b"zero")),
        Saved::new(ShardId(1), 8192, Bytes::from_static(b"one")),
    ];
    let mut bytes = checkpoint::encode(3, &shards).to_vec();
    let name = "checkpoint/00000000000000000003";
    files.insert(format!("v1/whole/{name}"), bytes.clone());
    *bytes.last_mut().unwrap() ^= 1;
    files.insert(format!("v1/damaged/{name}"), bytes);
    files
}

#[test]
fn the_files_of_every_version_are_read_as_ever() {
    let files = kept();
    let first = [
        "Message of shard 1, 7/2/0: one",
        "State of shard 1, 0/0/0: two",
    ];
    let expected: [(&str, &[&str], u64, usize, u64); 5] = [
        ("whole", &["Message of shard 1, 7/2/1: three"], 0, 0, 3),
        ("damaged", &["Message of shard 1: lost"], 0, 1, 3),
        ("hole", &[], 2 * BLOCK, 0, 1),
        ("cut", &["Message of shard 1, 7/2/1: instead"], 0, 0, 2),
        ("again", &["State of shard 1, 0/0/0: four"], 0, 0, 4),
    ];
    for (case, rest, torn_bytes, damage, end) in expected {
        let (words, recovery) = read(case, &files);
        let first = if case == "again" { &[][..] } else { &first[..] };
        assert_eq!(words, [first, rest].concat(), "{case}");
        assert_eq!(recovery.torn_bytes, torn_bytes, "{case}");
        assert_eq!(
            recovery.damage.len(),
            damage,
            "{case}: {:?}",
            recovery.damage
        );
        assert_eq!(
            (recovery.tail, recovery.sequence),
            (end * BLOCK, end),
            "{case}"
        );
    }
    let checkpoint = |case: &str| {
        let bytes = &files[&format!("v1/{case}/checkpoint/00000000000000000003")];
        checkpoint::decode(&Bytes::from(bytes.clone())).unwrap()
    };
    let whole = checkpoint("whole");
    assert!(whole.iter().all(Saved::is_whole));
    assert_eq!(
        (whole[1].position, &whole[1].state[..]),
        (8192, &b"one"[..])
    );
    let damaged = checkpoint("damaged");
    assert!(damaged[0].is_whole() && !damaged[1].is_whole());
}

#[test]
fn this_version_writes_what_the_files_hold() {
    let (kept, made) = (kept(), made());
    assert_eq!(
        kept.keys().collect::<Vec<_>>(),
        made.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in made {
        assert!(bytes == kept[&path], "{path}");
    }
}

/// A bit anywhere costs at most the records of its block, and never shows what was not written.
#[test]
fn no_flipped_bit_of_a_file_shows_what_was_not_written() {
    let files = kept();
    for case in ["whole", "again", "hole", "cut"] {
        let (whole, recovery) = read(case, &files);
        let prefix = format!("v1/{case}/wal/");
        for path in files.keys().filter(|path| path.starts_with(&prefix)) {
            let bytes = &files[path];
            let is_near = |at: usize| {
                bytes[at.saturating_sub(8)..(at + 8).min(bytes.len())]
                    .iter()
                    .any(|&b| b != 0)
            };
            for bit in (0..bytes.len() * 8).filter(|bit| is_near(bit / 8)) {
                let mut flipped = files.clone();
                flipped.get_mut(path).unwrap()[bit / 8] ^= 1 << (bit % 8);
                let (found, after) = read(case, &flipped);
                let shown = found
                    .iter()
                    .filter(|word| !word.starts_with("gap") && !word.ends_with("lost"));
                assert!(
                    shown.clone().all(|word| whole.contains(word)),
                    "{case} bit {bit}: {found:?}"
                );
                let is_whole = shown.count() == whole.len();
                let said = after.damage.len() > recovery.damage.len()
                    || after.torn_bytes > recovery.torn_bytes
                    || after.tail < recovery.tail;
                assert!(is_whole || said, "{case} bit {bit}: lost without a word");
            }
        }
    }
}
