//! Bits that rot in the cold tier: every single one of a small Parquet file, by every way that leads to it.
//!
//! It is quick because nothing is decoded: a reader gets bytes in whole blocks whose checksums hold, so damage ends a
//! read before a decoder sees a byte. A block without the flipped bit is read as ever, which one bit per
//! byte shows for the file beside it.

use futures::StreamExt as _;
use millpond_proto::message::Offset;

use super::tests::{ALL, TOPIC, messages, open, paths, read};
use super::*;
use crate::disk::Disk as _;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::log::ReadLimit;
use crate::tier::cold::typed::Reads;

fn is_damage(error: &ReadError) -> bool {
    matches!(
        error,
        ReadError::Damaged {
            offset: Offset(2),
            ..
        }
    )
}

#[tokio::test]
async fn every_flipped_bit_of_a_file_is_damage_and_never_data() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let all = messages(0, 0..5);
    cold.write(TOPIC, &all[..3], &[]).await.unwrap();
    cold.write(TOPIC, &all[3..], &[]).await.unwrap();
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    let key = path.strip_prefix("cold/").unwrap().to_owned();
    let length = disk.snapshot()[&path].len();
    let first = ReadLimit {
        messages: 1,
        bytes: 1,
    };
    let footer = cold.footers().get(&key).unwrap();
    for bit in 0..length * 8 {
        disk.flip_bit(&path, bit);
        // As a server that has just started reads it: the footer first.
        cold.footers().remove(&key);
        let error = read(&cold, 0, 2, ALL).await.unwrap_err();
        assert!(is_damage(&error), "bit {bit}: {error}");
        if bit % 8 == bit / 8 % 8 {
            // As one that has read it before, with the footer in memory; row by row and as columns.
            cold.footers().insert(&key, footer.clone());
            let error = read(&cold, 0, 2, first).await.unwrap_err();
            assert!(is_damage(&error), "bit {bit}: {error}");
            let mut scan = cold.scan(
                TOPIC,
                QueueId(0),
                Offset(2)..Offset(5),
                &Reads::of(&["body"]),
            );
            let error = scan.next().await.unwrap().unwrap_err();
            assert!(is_damage(&error), "bit {bit}: {error}");
            assert!(scan.next().await.is_none());
        }
        if bit % 512 == 0 {
            assert_eq!(read(&cold, 0, 3, ALL).await.unwrap(), all[3..]);
            let opened = open(&disk).await;
            assert_eq!(opened.sizes(TOPIC).messages, 5, "opening reads no file");
        }
        disk.flip_bit(&path, bit);
    }
    cold.footers().remove(&key);
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), all);
}

#[tokio::test]
async fn a_file_that_is_cut_short_is_damage() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..3), &[]).await.unwrap();
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    let length = disk.snapshot()[&path].len() as u64;
    for left in [length - 1, length / 2, 1] {
        disk.open(&path).unwrap().set_len(left).unwrap();
        let cold = open(&disk).await;
        let error = read(&cold, 0, 2, ALL).await.unwrap_err();
        assert!(is_damage(&error), "{left} bytes left: {error}");
    }
}
