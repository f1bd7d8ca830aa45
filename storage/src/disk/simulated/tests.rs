//! What a crash of the simulated disk keeps, and what it may lose.

use super::*;

fn durable_file(disk: &SimulatedDisk) -> Box<dyn DiskFile> {
    disk.create_folder("a").unwrap();
    let file = disk.create("a/f").unwrap();
    file.write_at(&[1; 2048], 0).unwrap();
    file.sync().unwrap();
    disk.sync_folder("a").unwrap();
    file
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        let file = durable_file(&disk);
        file.write_at(&[2; 2048], 2048).unwrap();
        let disk = disk.crash(&Seeded::new(seed));
        let after = disk.snapshot();
        assert_eq!(&after["a/f"][..2048], [1; 2048], "seed {seed}");
        assert!(file.sync().is_err(), "an old handle works no more");
    }
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        durable_file(&disk).write_at(&[2; 2048], 0).unwrap();
        let after = disk.crash(&Seeded::new(seed)).snapshot();
        match after["a/f"].iter().filter(|&&byte| byte == 2).count() {
            0 => lost += 1,
            2048 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
}

#[test]
fn a_file_that_moved_to_a_synced_folder_is_there_for_certain() {
    for seed in 0..20 {
        let disk = SimulatedDisk::new();
        disk.create_folder("new").unwrap();
        disk.create_folder("a").unwrap();
        disk.create("new/f").unwrap();
        disk.rename("new/f", "a/f").unwrap();
        disk.sync_folder("a").unwrap();
        let disk = disk.crash(&Seeded::new(seed));
        assert_eq!(disk.list("a").unwrap(), ["f"]);
        assert!(disk.list("new").unwrap().is_empty());
    }
}

#[test]
fn an_entry_that_was_not_synced_may_vanish_but_a_rename_never_loses_both_names() {
    let mut names = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimulatedDisk::new();
        drop(durable_file(&disk));
        disk.rename("a/f", "a/g").unwrap();
        disk.create("a/h").unwrap();
        names.insert(disk.crash(&Seeded::new(seed)).list("a").unwrap());
    }
    let expected = [vec!["f"], vec!["g"], vec!["g", "h"]];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
}
