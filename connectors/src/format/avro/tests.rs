use std::sync::Arc;

use arrow::array::{
    Array as _, AsArray as _, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array,
    Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema as Theirs, SchemaStore};
use bytes::Bytes;
use proptest::prelude::*;

use crate::format::body::{
    BodyDecoder, BodyEncoder, Compatibility, Encoding, Format, SchemaVersion, avro_of,
};

const READING: &str = r#"{"type":"record","name":"Reading","namespace":"farm","fields":[
    {"name":"sensor","type":"string"},
    {"name":"value","type":["null","double"],"default":null},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["COLD","WARM"]}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"place","type":{"type":"record","name":"Place","fields":[{"name":"x","type":"int"},{"name":"next","type":["null","Place"]}]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}
]}"#;

pub(super) fn encoding(texts: &[&str]) -> Encoding {
    Encoding {
        format: Format::Avro,
        schemas: texts
            .iter()
            .zip(1..)
            .map(|(text, version)| SchemaVersion {
                version,
                text: Bytes::copy_from_slice(text.as_bytes()),
            })
            .collect(),
        ..Encoding::default()
    }
}

pub(super) fn bodies(rows: &[&[u8]]) -> BinaryArray {
    rows.iter().map(|row| Some(*row)).collect()
}

/// sensor "s", value 1.5, at 1_000_000 µs, WARM, ["a"], {x: 1, next: null}, 1.25
fn datum() -> Vec<u8> {
    let mut datum = b"\x02s\x02".to_vec();
    datum.extend_from_slice(&1.5_f64.to_le_bytes());
    datum.extend_from_slice(b"\x80\x89\x7a\x02\x02\x02a\x00\x02\x00\x02\x7d");
    datum
}

pub(super) fn columns(encoding: &Encoding) -> SchemaRef {
    let fields = encoding.columns().unwrap().into_iter().map(|column| {
        let data_type = match column.sql_type.as_str() {
            "DOUBLE" => DataType::Float64,
            "BIGINT" => DataType::Int64,
            "INT" => DataType::Int32,
            "FLOAT" => DataType::Float32,
            "BOOLEAN" => DataType::Boolean,
            "DATE" => DataType::Date32,
            "BYTES" => DataType::Binary,
            "TIMESTAMP" => DataType::Timestamp(TimeUnit::Millisecond, None),
            "DECIMAL(10, 2)" => DataType::Decimal128(10, 2),
            _ => DataType::Utf8,
        };
        Field::new(column.name, data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[test]
fn a_bare_datum_becomes_columns_and_what_is_nested_json() {
    let encoding = encoding(&[READING]);
    let schema = columns(&encoding);
    let decoder = BodyDecoder::new(&encoding, &schema, |_| true).unwrap();
    let decoded = decoder.decode(&bodies(&[&datum()]), None).unwrap();
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let expected = RecordBatch::try_new(
        schema,
        vec![
            Arc::new(StringArray::from(vec!["s"])),
            Arc::new(Float64Array::from(vec![1.5])),
            Arc::new(TimestampMillisecondArray::from(vec![1_000])),
            Arc::new(StringArray::from(vec!["WARM"])),
            Arc::new(StringArray::from(vec!["[\"a\"]"])),
            Arc::new(StringArray::from(vec!["{\"x\":1,\"next\":null}"])),
            Arc::new(
                Decimal128Array::from(vec![125])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
        ],
    );
    assert_eq!(decoded.batch, expected.unwrap());
}

#[test]
fn a_bad_datum_is_found_and_its_neighbours_stay_in_place() {
    let encoding = encoding(&[READING]);
    let decoder =
        BodyDecoder::new(&encoding, &columns(&encoding), |name| name == "sensor").unwrap();
    let whole = datum();
    let mut longer = whole.clone();
    longer.push(0);
    let mut kind = whole.clone();
    kind[14] = 0x08;
    let rows: [&[u8]; 6] = [&whole, &whole[..9], &longer, b"", &kind, &whole];
    let decoded = decoder.decode(&bodies(&rows), None).unwrap();
    let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
    assert_eq!(bad, [1, 2, 3, 4], "{:?}", decoded.errors);
    let sensors: Vec<Option<&str>> = decoded.batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(sensors, [Some("s"), None, None, None, None, Some("s")]);
    assert_eq!(decoded.batch.column(1).null_count(), 6);
}

#[test]
fn a_body_is_read_by_the_schema_it_was_written_with() {
    let first = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
    let second = r#"{"type":"record","name":"R","fields":[{"name":"b","type":"string","default":"none"},{"name":"a","type":"long"}]}"#;
    let encoding = encoding(&[first, second]);
    let schema = columns(&encoding);
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(StringArray::from(vec!["x"])),
            Arc::new(Int64Array::from(vec![3])),
        ],
    )
    .unwrap();
    let named = BodyEncoder::new(&encoding).unwrap().encode(&batch).unwrap();
    let rows: [&[u8]; 4] = [b"\x02", b"\x02y\x04", &named[0], b"\x02z\x04"];
    let versions = Int32Array::from(vec![Some(1), Some(2), Some(1), None]);
    let decoder = BodyDecoder::new(&encoding, &schema, |_| true).unwrap();
    let decoded = decoder.decode(&bodies(&rows), Some(&versions)).unwrap();
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let b: Vec<Option<&str>> = decoded.batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(b, [Some("none"), Some("y"), Some("x"), Some("z")]);
    let a = decoded.batch.column(1).as_primitive::<Int64Type>();
    assert_eq!(a.values(), &[1, 2, 3, 2]);
    let unknown = Int32Array::from(vec![9]);
    let decoded = decoder.decode(&bodies(&[b"\x02"]), Some(&unknown)).unwrap();
    assert!(decoded.errors[0].1.contains("version 9"));
}

#[test]
fn what_is_not_compatible_is_refused_with_the_reason() {
    let base = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#;
    let with = |field: &str| {
        format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"long"}},{field}]}}"#)
    };
    let encoding = encoding(&[base]);
    let add = |encoding: &Encoding, text: &str| encoding.with_schema(Bytes::from(text.to_owned()));
    let error = add(&encoding, &with(r#"{"name":"b","type":"int"}"#))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("field b is new and has no default"),
        "{error}"
    );
    add(&encoding, &with(r#"{"name":"b","type":"int","default":0}"#)).unwrap();
    let narrowed = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
    let error = add(&encoding, narrowed).unwrap_err().to_string();
    assert!(error.contains("field a was long and is int"), "{error}");
    let forward = Encoding {
        compatibility: Compatibility::Forward,
        ..encoding.clone()
    };
    add(&forward, &with(r#"{"name":"b","type":"int"}"#)).unwrap();
    add(&forward, narrowed).unwrap();
    let none = Encoding {
        compatibility: Compatibility::None,
        ..encoding.clone()
    };
    add(
        &none,
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#,
    )
    .unwrap();
    assert!(add(&none, "{").is_err());
    assert!(add(&none, r#""long""#).is_err());
}

#[test]
fn an_array_that_claims_more_than_its_size_can_tell_is_refused() {
    let text = r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#;
    let encoding = encoding(&[text]);
    let decoder = BodyDecoder::new(&encoding, &columns(&encoding), |_| true).unwrap();
    let decoded = decoder
        .decode(&bodies(&[b"\xfe\xff\xff\xff\xff\xff\xff\x7f\x00"]), None)
        .unwrap();
    assert!(
        decoded.errors[0].1.contains("more values"),
        "{:?}",
        decoded.errors
    );
}

fn flat() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("price", DataType::Decimal128(20, 4), true),
    ]))
}

proptest! {
    /// What is written here, this reader and arrow-avro's read as the same rows.
    #[test]
    fn what_is_written_reads_back_the_same_here_and_elsewhere(
        rows in proptest::collection::vec(
            (
                proptest::option::of(".{0,8}"),
                proptest::option::of(any::<i64>()),
                proptest::option::of(-1e300_f64..1e300),
                proptest::option::of(-4_000_000_000_000_i64..4_000_000_000_000),
                proptest::option::of(any::<bool>()),
                proptest::option::of(-(10_i128.pow(20) - 1)..10_i128.pow(20)),
            ),
            1..20,
        )
    ) {
        let text = avro_of("farm/2", &flat());
        let encoding = encoding(&[std::str::from_utf8(&text).unwrap()]);
        let batch = RecordBatch::try_new(flat(), vec![
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.clone()))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1))),
            Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.2))),
            Arc::new(TimestampMillisecondArray::from_iter(rows.iter().map(|row| row.3))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.4))),
            Arc::new(Decimal128Array::from_iter(rows.iter().map(|row| row.5))
                .with_precision_and_scale(20, 4).unwrap()),
        ]).unwrap();
        let written = BodyEncoder::new(&encoding).unwrap().encode(&batch).unwrap();
        let each: Vec<&[u8]> = written.iter().map(|row| row.as_ref()).collect();
        let decoder = BodyDecoder::new(&encoding, &flat(), |_| true).unwrap();
        let back = decoder.decode(&bodies(&each), None).unwrap();
        prop_assert!(back.errors.is_empty(), "{:?}", back.errors);
        prop_assert_eq!(&back.batch, &batch);

        let mut store = SchemaStore::new();
        store.register(Theirs::new(String::from_utf8(text.to_vec()).unwrap())).unwrap();
        let mut theirs = ReaderBuilder::new()
            .with_batch_size(rows.len())
            .with_writer_schema_store(store)
            .build_decoder()
            .unwrap();
        for body in &written {
            theirs.decode(body).unwrap();
        }
        let theirs = theirs.flush().unwrap().expect("as many rows as were given");
        for (ours, theirs) in batch.columns().iter().zip(theirs.columns()) {
            let same = arrow::compute::cast(theirs, ours.data_type()).unwrap();
            prop_assert_eq!(&same, ours);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..60)) {
        let encoding = encoding(&[READING]);
        let decoder = BodyDecoder::new(&encoding, &columns(&encoding), |_| true).unwrap();
        let decoded = decoder.decode(&bodies(&[&body]), None).unwrap();
        prop_assert_eq!(decoded.batch.num_rows(), 1);
    }
}

#[test]
fn items_that_take_bytes_are_read_however_many_and_only_so_many_that_take_none() {
    let array = |items: &str| {
        encoding(&[&format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"items","type":{{"type":"array","items":{items}}}}}]}}"#
        )])
    };
    let count = 5000_u16;
    // A block of 5000, as the zigzag of a long.
    let block = |each: &[u8]| {
        let mut body = vec![0x90, 0x4e];
        body.extend((0..count).flat_map(|_| each.to_vec()));
        body.push(0);
        body
    };
    let read = |encoding: &Encoding, body: &[u8]| {
        let decoder = BodyDecoder::new(encoding, &columns(encoding), |_| true).unwrap();
        decoder.decode(&bodies(&[body]), None).unwrap()
    };
    let maybe = array(r#"["null","int"]"#);
    for (each, item) in [(&b"\x02\x0e"[..], "7"), (&b"\x00"[..], "null")] {
        let decoded = read(&maybe, &block(each));
        assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
        let text = decoded.batch.column(0).as_string::<i32>().value(0);
        assert_eq!(text.matches(item).count(), usize::from(count));
    }
    let decoded = read(&array(r#""null""#), &block(b""));
    let (_, error) = &decoded.errors[0];
    assert!(error.contains("more values than its size"), "{error}");
}
