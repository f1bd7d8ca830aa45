//! A folder that no server has open: it tells the damage that a server would meet.

use super::damage::{bit_of, small_log, wal_of_the_small_log};
use super::*;

pub(super) fn at_rest(disk: &SimulatedDisk) -> folder::Folder {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects"));
    folder::Folder::open(disk, objects).unwrap()
}

#[tokio::test]
async fn a_folder_at_rest_tells_the_damage_that_a_server_would_meet() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    let bit = |text| bit_of(&wal_files(&disk)[&path], text);
    let read = async |disk: &SimulatedDisk, from| {
        let folder = at_rest(disk);
        let read = folder.read(TOPIC, QueueId(2), Offset(from), 9).await;
        let read = read.unwrap();
        read.map(|messages| messages.iter().map(|m| m.offset).collect::<Vec<_>>())
    };
    let project = |disk: &SimulatedDisk| at_rest(disk).project::<Seen>(ShardId(2)).unwrap();
    assert_eq!(read(&disk, 0).await.unwrap(), [0, 1]);
    assert_eq!(project(&disk).unwrap().0.len(), 3);

    // A message: it alone is lost, and told.
    let rotten = SimulatedDisk::holding(&disk.snapshot());
    rotten.flip_bit(&path, bit("body 2 1"));
    assert_eq!(read(&rotten, 0).await.unwrap(), [0]);
    let damaged = read(&rotten, 1).await;
    assert!(
        matches!(
            damaged,
            Err(ReadError::Damaged {
                offset: Offset(1),
                ..
            })
        ),
        "{damaged:?}"
    );
    assert_eq!(project(&rotten).unwrap().0[1], "2/1 lost");

    // A change of state: what the shard was is unknown from there on.
    let rotten = SimulatedDisk::holding(&disk.snapshot());
    rotten.flip_bit(&path, bit("second"));
    assert!(project(&rotten).is_err());

    // Both heads of the block of its first message: nobody knows what lay there.
    let rotten = SimulatedDisk::holding(&disk.snapshot());
    let bytes = &wal_files(&disk)[&path];
    let heads: Vec<usize> = (0..bytes.len() - 4)
        .filter(|&at| bytes[at..at + 4] == block::MAGIC)
        .collect();
    // Of the blocks of 0/0, 2/0, 0/1, 2/1 and two changes of state.
    for &head in &heads[2..4] {
        rotten.flip_bit(&path, head * 8);
    }
    let damaged = read(&rotten, 1).await;
    assert_eq!(damaged.unwrap(), [1]);
    assert!(project(&rotten).is_err());
}

#[tokio::test]
async fn a_folder_at_rest_does_not_believe_a_damaged_state() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let snapshot = ShardSnapshot {
        shard: ShardId(2),
        position: state(&storage, 2, "before").await,
        state: Bytes::from_static(b"snapshot"),
    };
    storage.checkpoint(vec![snapshot]).await.unwrap();
    state(&storage, 2, "behind").await;
    storage.close().await;
    let checkpoint = "checkpoint/00000000000000000001";
    let at = bit_of(&disk.snapshot()[checkpoint], "snapshot");
    let project = || at_rest(&disk).project::<Seen>(ShardId(2)).unwrap();
    assert_eq!(project().unwrap().0[0], "snapshot");
    disk.flip_bit(checkpoint, at);
    assert!(project().is_err());
}
