//! Tests of fields that come, go and change: defaults, versions that look alike, and values that find their branch.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Decimal128Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, SchemaRef, TimestampMillisecondType};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema as Theirs, SchemaStore};
use bytes::Bytes;

use super::tests::{bodies, columns, encoding};
use crate::format::body::{BodyDecoder, BodyEncoder, Compatibility, Encoding};
use crate::format::json::{Decoded, encode_rows};

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
}

/// Rows of these columns alone, written in the last version.
fn written(encoding: &Encoding, filled: Vec<(&str, ArrayRef)>) -> Result<Vec<Bytes>, String> {
    let rows = RecordBatch::try_from_iter_with_nullable(
        filled
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    );
    let encoder = BodyEncoder::new(encoding).unwrap();
    encoder.encode(&rows.unwrap()).map_err(|e| e.to_string())
}

fn read(encoding: &Encoding, schema: &SchemaRef, body: &[u8], version: i32) -> Decoded {
    let decoder = BodyDecoder::new(encoding, schema, |_| true).unwrap();
    let versions = Int32Array::from(vec![version]);
    decoder.decode(&bodies(&[body]), Some(&versions)).unwrap()
}

fn json(decoded: &Decoded) -> String {
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    let rows = encode_rows(&decoded.batch).unwrap();
    String::from_utf8(rows[0].to_vec()).unwrap()
}

const DEFAULTS: &str = r#"{"name":"id","type":"long"},
    {"name":"b","type":"boolean","default":true},
    {"name":"i","type":"int","default":7},
    {"name":"l","type":"long","default":-7},
    {"name":"d","type":{"type":"int","logicalType":"date"},"default":1},
    {"name":"t","type":{"type":"long","logicalType":"timestamp-micros"},"default":1577836800000000},
    {"name":"f","type":"float","default":0.5},
    {"name":"x","type":"double","default":2.5},
    {"name":"y","type":"bytes","default":"\u00ff"},
    {"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2},"default":"\u0000\u00fa"},
    {"name":"fx","type":{"type":"fixed","name":"Two","size":2},"default":"\u0001\u0002"},
    {"name":"s","type":"string","default":"text"},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]},"default":"B"},
    {"name":"a","type":{"type":"array","items":"int"},"default":[1,2]},
    {"name":"none","type":{"type":"array","items":"int"},"default":[]},
    {"name":"mp","type":{"type":"map","values":"string"},"default":{"k":"v"}},
    {"name":"r","type":{"type":"record","name":"In","fields":[{"name":"x","type":"int"},{"name":"y","type":"string","default":"in"}]},"default":{"x":1}},
    {"name":"u","type":["int","null"],"default":5},
    {"name":"n","type":["null","string"],"default":null}"#;

const DEFAULTS_READ: &str = r#"{"id":1,"b":true,"i":7,"l":-7,"d":"1970-01-02","t":"2020-01-01T00:00:00.000Z","f":0.5,"x":2.5,"y":"ff","m":2.50,"fx":"0102","s":"text","e":"B","a":"[1,2]","none":"[]","mp":"{\"k\":\"v\"}","r":"{\"x\":1,\"y\":\"in\"}","u":5}"#;

#[test]
fn a_default_is_the_same_for_a_body_that_lacks_the_field_and_for_a_row_that_leaves_it_out() {
    let (old, new) = (record(r#"{"name":"id","type":"long"}"#), record(DEFAULTS));
    let both = encoding(&[&old, &new]);
    let schema = columns(&both);
    assert_eq!(json(&read(&both, &schema, b"\x02", 1)), DEFAULTS_READ);

    let rows = written(&both, vec![("id", Arc::new(Int64Array::from(vec![1])))]).unwrap();
    assert_eq!(json(&read(&both, &schema, &rows[0], 2)), DEFAULTS_READ);
    let mut store = SchemaStore::new();
    store.register(Theirs::new(new)).unwrap();
    let mut theirs = ReaderBuilder::new()
        .with_writer_schema_store(store)
        .build_decoder()
        .unwrap();
    assert_eq!(theirs.decode(&rows[0]).unwrap(), rows[0].len());
    assert_eq!(theirs.flush().unwrap().unwrap().num_rows(), 1);
}

#[test]
fn a_default_of_another_type_is_an_error_of_the_schema() {
    let base = encoding(&[&record(r#"{"name":"id","type":"long"}"#)]);
    for (field, reason) in [
        (
            r#"{"name":"n","type":"int","default":"x"}"#,
            r#"the default of field n is "x", which is not an int"#,
        ),
        (
            r#"{"name":"n","type":"int","default":3000000000}"#,
            "which is not an int",
        ),
        (
            r#"{"name":"n","type":{"type":"fixed","name":"F","size":2},"default":"a"}"#,
            "which is not 2 bytes",
        ),
        (
            r#"{"name":"n","type":{"type":"record","name":"I","fields":[{"name":"x","type":"int"}]},"default":{}}"#,
            "lacks x",
        ),
        (
            r#"{"name":"n","type":{"type":"record","name":"I","fields":[{"name":"x","type":"I","default":{}}]},"default":{}}"#,
            "holds too many values",
        ),
        (
            r#"{"name":"n","type":["int","string"],"default":null}"#,
            "which no branch of its union takes",
        ),
    ] {
        let text = record(&format!(r#"{{"name":"id","type":"long"}},{field}"#));
        let error = base.with_schema(Bytes::from(text)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn null_is_not_a_column_that_is_left_out() {
    let text = record(
        r#"{"name":"id","type":"long"},{"name":"n","type":"int","default":5},{"name":"m","type":["int","null"],"default":6}"#,
    );
    let encoding = encoding(&[&text]);
    let schema = columns(&encoding);
    let id = || ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    let null = || Arc::new(Int32Array::from(vec![None])) as ArrayRef;
    let rows = written(&encoding, vec![id()]).unwrap();
    assert_eq!(
        json(&read(&encoding, &schema, &rows[0], 1)),
        r#"{"id":1,"n":5,"m":6}"#
    );
    let rows = written(&encoding, vec![id(), ("m", null())]).unwrap();
    assert_eq!(
        json(&read(&encoding, &schema, &rows[0], 1)),
        r#"{"id":1,"n":5}"#
    );
    let refused = written(&encoding, vec![id(), ("n", null())]).unwrap_err();
    assert!(refused.contains("field n may not be NULL"), "{refused}");
}

#[test]
fn versions_that_differ_in_a_logical_type_alone_are_told_apart() {
    let at = |unit: &str| {
        record(&format!(
            r#"{{"name":"at","type":{{"type":"long","logicalType":"timestamp-{unit}"}}}}"#
        ))
    };
    let first = Encoding {
        compatibility: Compatibility::None,
        ..encoding(&[&at("millis")])
    };
    let both = first.with_schema(Bytes::from(at("micros"))).unwrap();
    let schema = columns(&both);
    let ms = 1_577_836_800_000;
    for (encoding, version) in [(&first, 1), (&both, 2)] {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![ms]));
        let rows = written(encoding, vec![("at", times)]).unwrap();
        let back = read(&both, &schema, &rows[0], version);
        let back = back
            .batch
            .column(0)
            .as_primitive::<TimestampMillisecondType>();
        assert_eq!(back.value(0), ms, "version {version}");
    }
}

#[test]
fn a_body_that_names_a_schema_nobody_knows_says_so() {
    let encoding = encoding(&[&record(r#"{"name":"sensor","type":"string"}"#)]);
    let decoded = read(
        &encoding,
        &columns(&encoding),
        b"\xc3\x01\0\0\0\0\0\0\0\0\x02s",
        1,
    );
    let (_, reason) = &decoded.errors[0];
    assert!(
        reason.starts_with(
            "the schema that the body names is not known; read without it: field sensor"
        ),
        "{reason}"
    );
}

#[test]
fn a_fixed_decimal_is_one_wherever_it_is_named() {
    let text = record(
        r#"{"name":"a","type":{"type":"fixed","name":"Money","size":8,"logicalType":"decimal","precision":10,"scale":2}},{"name":"b","type":"Money"}"#,
    );
    let encoding = encoding(&[&text]);
    let types: Vec<String> = encoding
        .columns()
        .unwrap()
        .into_iter()
        .map(|c| c.sql_type)
        .collect();
    assert_eq!(types, ["DECIMAL(10, 2)", "DECIMAL(10, 2)"]);
    let money = |units| -> ArrayRef {
        let money = Decimal128Array::from(vec![units]).with_precision_and_scale(10, 2);
        Arc::new(money.unwrap())
    };
    let rows = written(&encoding, vec![("a", money(-1)), ("b", money(12_345))]).unwrap();
    let back = read(&encoding, &columns(&encoding), &rows[0], 1);
    assert_eq!(json(&back), r#"{"a":-0.01,"b":123.45}"#);
}

#[test]
fn a_text_is_written_to_the_branch_of_texts() {
    for (branches, text) in [
        (r#"["null","double","string"]"#, "007"),
        (r#"["null","double","string"]"#, "abc"),
        (r#"["bytes","string"]"#, "abc"),
    ] {
        let encoding = encoding(&[&record(&format!(r#"{{"name":"v","type":{branches}}}"#))]);
        let rows = written(
            &encoding,
            vec![("v", Arc::new(StringArray::from(vec![text])))],
        )
        .unwrap();
        let back = read(&encoding, &columns(&encoding), &rows[0], 1);
        assert!(back.errors.is_empty(), "{:?}", back.errors);
        assert_eq!(
            back.batch.column(0).as_string::<i32>().value(0),
            text,
            "{branches}"
        );
    }
}

#[test]
fn what_is_nested_has_a_bound_as_json_and_none_where_nobody_asks_for_it() {
    let name = "n".repeat(10_000);
    let text = record(&format!(
        r#"{{"name":"items","type":{{"type":"array","items":{{"type":"record","name":"I","fields":[{{"name":"{name}","type":"boolean"}}]}}}}}},{{"name":"i","type":"int"}}"#
    ));
    let encoding = encoding(&[&text]);
    // A block of 5000, its end, and 7.
    let mut body = vec![0x90, 0x4e];
    body.extend(std::iter::repeat_n(1, 5000));
    body.extend([0, 14]);
    let all = read(&encoding, &columns(&encoding), &body, 1);
    assert_eq!(
        all.errors,
        [(
            0,
            "field items: what is nested in it is too large as JSON".to_owned()
        )]
    );
    let schema = columns(&encoding);
    let some = read(
        &encoding,
        &Arc::new(schema.project(&[1]).unwrap()),
        &body,
        1,
    );
    assert!(some.errors.is_empty(), "{:?}", some.errors);
    assert_eq!(some.batch.column(0).as_primitive::<Int32Type>().value(0), 7);
    assert_eq!(some.batch.column(0).null_count(), 0);
}
