//! Layers over a store that counts, against a map as the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use millpond_proto::chance::Seeded;
use object_store::memory::InMemory;

use super::*;
use crate::operator::delta::{Entries, Entry};
use crate::testing::store::DyingStore;

const CELL: Cell = Cell::ByColumns(Entries::CELL);

/// Values of each key of each node, in their order.
type Model = BTreeMap<(usize, u64), Vec<i64>>;

fn state(model: &Model) -> RecordBatch {
    let mut entries = Entries::default();
    for ((node, key), values) in model {
        entries.begin(*node);
        for value in values {
            entries.push(Entry {
                part: 0,
                key: &key.to_be_bytes(),
                value: b"a value of some length, as a row has it",
                count: *value,
                other: 0,
            });
        }
    }
    entries.batch().unwrap()
}

fn model(state: &RecordBatch) -> Model {
    let mut model = Model::new();
    Entries::each(state, |node, entry| {
        let key = u64::from_be_bytes(entry.key.try_into().unwrap());
        model.entry((node, key)).or_default().push(entry.count);
        Ok(())
    })
    .unwrap();
    model
}

#[tokio::test]
async fn any_changes_come_back_from_few_layers() {
    for seed in 0..12 {
        let chance = Seeded::new(seed);
        let store = InMemory::new();
        let mut layers = Layers::new(7, CELL);
        let mut now = Model::new();
        for epoch in 1..60 {
            for _ in 0..chance.below(40) {
                let node = usize::try_from(chance.below(3)).unwrap();
                let place = (node, chance.below(400));
                match chance.below(4) {
                    0 => {
                        now.remove(&place);
                    }
                    1 => now
                        .entry(place)
                        .or_default()
                        .insert(0, i64::try_from(epoch).unwrap()),
                    _ => now
                        .entry(place)
                        .or_default()
                        .push(i64::try_from(epoch).unwrap()),
                }
            }
            layers.save(&store, epoch, &state(&now)).await.unwrap();
            assert!(layers.at().len() <= LAYERS_MAX, "{:?}", layers.at());
            if chance.below(3) == 0 {
                let at = layers.at().to_vec();
                layers = Layers::new(7, CELL);
                let restored = layers.restore(&store, at).await.unwrap().unwrap();
                assert_eq!(model(&restored), now, "seed {seed}, epoch {epoch}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_save_costs_follows_from_what_changed() {
    let store = DyingStore::counting(Arc::new(InMemory::new()));
    let mut layers = Layers::new(7, CELL);
    let mut now: Model = (0..20_000).map(|key| ((0, key), vec![0])).collect();
    layers.save(&store, 1, &state(&now)).await.unwrap();
    let base = store.bytes_written();
    assert!(base > 1_000_000, "{base} bytes are a state worth the name");
    layers.save(&store, 2, &state(&now)).await.unwrap();
    assert_eq!(
        store.bytes_written(),
        base,
        "nothing changed, nothing is written"
    );
    let chance = Seeded::new(5);
    let saves = 64;
    for epoch in 3..3 + saves {
        for _ in 0..20 {
            now.insert(
                (0, chance.below(20_000)),
                vec![i64::try_from(epoch).unwrap()],
            );
        }
        layers.save(&store, epoch, &state(&now)).await.unwrap();
    }
    let each = (store.bytes_written() - base) / saves;
    // A thousandth of the state changes each time; with its share of merging it is written a few times.
    assert!(each < base / 50, "{each} bytes a save of a state of {base}");
    // When all of it changed once, it is written anew.
    let before = layers.at().first().cloned();
    for values in now.values_mut() {
        values.push(1);
    }
    layers.save(&store, 100, &state(&now)).await.unwrap();
    assert_ne!(layers.at().first().cloned(), before);
    assert_eq!(layers.at().len(), 1);
}

#[test]
fn layers_of_other_columns_are_refused_and_not_mixed() {
    let rows = state(&Model::from([((0, 1), vec![1])]));
    let other = rows.project(&[0, 2, 3]).unwrap();
    let layers = [Layer::base(rows, vec![1]), Layer::base(other, vec![2])];
    assert!(Layer::merged(&layers).is_err());
}

#[test]
fn every_flipped_byte_and_every_cut_of_a_layer_is_found() {
    let rows = state(&Model::from([((0, 1), vec![1]), ((1, 2), vec![3, 4])]));
    let mut layer = Layer::base(rows, vec![7, 8, 8]);
    layer.gone.extend([4, 9]);
    let object = layer.encode().unwrap();
    assert_eq!(Layer::decode("k", &object).unwrap(), layer);
    for at in 0..object.len() {
        let mut damaged = object.to_vec();
        damaged[at] ^= 0x20;
        assert!(Layer::decode("k", &damaged).is_err(), "byte {at}");
        assert!(Layer::decode("k", &object[..at]).is_err(), "cut {at}");
    }
}

#[test]
fn cells_whose_rows_changed_their_order_are_told() {
    let changed = |before: &[i64], now: &[i64]| {
        let cells = |values: &[i64]| {
            let rows = state(&Model::from([((0, 1), values.to_vec())]));
            assert_eq!(rows.column(4).as_primitive::<Int64Type>().values(), values);
            let ids = ids_of(&rows, CELL).unwrap();
            Cells::of(&rows, &ids).unwrap()
        };
        !cells(before).changed(&cells(now)).is_empty()
    };
    assert!(changed(&[1, 2], &[2, 1]));
    assert!(changed(&[1, 2], &[1]));
    assert!(!changed(&[1, 2], &[1, 2]));
}

#[tokio::test]
async fn layers_under_ids_that_nobody_makes_any_more_are_read_and_written_anew() {
    let store = InMemory::new();
    let before = Model::from([((0, 1), vec![1]), ((0, 2), vec![2, 3])]);
    let foreign = Layer::base(state(&before), vec![11, 12, 12]);
    let base = put(&store, "base".to_owned(), foreign.encode().unwrap()).await;
    let mut layers = Layers::new(7, CELL);
    let restored = layers.restore(&store, vec![base.unwrap()]).await.unwrap();
    assert_eq!(model(&restored.unwrap()), before);
    let now = Model::from([((0, 2), vec![2, 3])]);
    layers.save(&store, 1, &state(&now)).await.unwrap();
    let mut again = Layers::new(7, CELL);
    let restored = again.restore(&store, layers.at().to_vec()).await.unwrap();
    assert_eq!(model(&restored.unwrap()), now);
}
