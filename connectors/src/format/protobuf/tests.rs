use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array,
    Int32Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{
    DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, OneofDescriptorProto,
};

use crate::format::body::{BodyDecoder, BodyEncoder, Encoding, Format, SchemaVersion};

fn field(name: &str, number: i32, of: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(of.into()),
        ..FieldDescriptorProto::default()
    }
}

fn typed(mut field: FieldDescriptorProto, name: &str) -> FieldDescriptorProto {
    field.type_name = Some(name.to_owned());
    field
}

/// An order with these fields beside the usual ones.
fn order(more: Vec<FieldDescriptorProto>) -> Bytes {
    let timestamp = FileDescriptorProto {
        name: Some("google/protobuf/timestamp.proto".to_owned()),
        package: Some("google.protobuf".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Timestamp".to_owned()),
            field: vec![
                field("seconds", 1, Type::Int64),
                field("nanos", 2, Type::Int32),
            ],
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let mut tags = field("tags", 6, Type::String);
    tags.label = Some(Label::Repeated.into());
    let mut fields = vec![
        field("id", 1, Type::Uint64),
        field("customer", 2, Type::String),
        field("cents", 3, Type::Sint32),
        typed(field("at", 4, Type::Message), ".google.protobuf.Timestamp"),
        typed(field("state", 5, Type::Enum), ".shop.State"),
        tags,
        field("weight", 7, Type::Double),
        field("paid", 8, Type::Bool),
    ];
    fields.extend(more);
    let shop = FileDescriptorProto {
        name: Some("shop.proto".to_owned()),
        package: Some("shop".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec!["google/protobuf/timestamp.proto".to_owned()],
        message_type: vec![DescriptorProto {
            name: Some("Order".to_owned()),
            field: fields,
            ..DescriptorProto::default()
        }],
        enum_type: vec![EnumDescriptorProto {
            name: Some("State".to_owned()),
            value: ["NEW", "SENT"]
                .into_iter()
                .zip(0..)
                .map(|(name, number)| EnumValueDescriptorProto {
                    name: Some(name.to_owned()),
                    number: Some(number),
                    ..EnumValueDescriptorProto::default()
                })
                .collect(),
            ..EnumDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet {
        file: vec![timestamp, shop],
    };
    Bytes::from(set.encode_to_vec())
}

fn encoding(text: Bytes) -> Encoding {
    Encoding {
        format: Format::Protobuf,
        schemas: vec![SchemaVersion { version: 1, text }],
        ..Encoding::default()
    }
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Decimal128(20, 0), true),
        Field::new("customer", DataType::Utf8, true),
        Field::new("cents", DataType::Int32, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("state", DataType::Utf8, true),
        Field::new("weight", DataType::Float64, true),
        Field::new("paid", DataType::Boolean, true),
    ]))
}

fn bodies(rows: &[Bytes]) -> BinaryArray {
    rows.iter().map(|row| Some(row.as_ref())).collect()
}

#[test]
fn columns_follow_from_the_descriptor() {
    let found = encoding(order(Vec::new())).columns().unwrap();
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|column| (column.name.as_str(), column.sql_type.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("id", "DECIMAL(20, 0)"),
            ("customer", "VARCHAR"),
            ("cents", "INT"),
            ("at", "TIMESTAMP"),
            ("state", "VARCHAR"),
            ("tags", "VARCHAR"),
            ("weight", "DOUBLE"),
            ("paid", "BOOLEAN"),
        ]
    );
}

#[test]
fn what_is_nested_is_json_and_what_is_absent_its_default() {
    // tags = ["a", "b"], state = 7 (unknown)
    let body = Bytes::from_static(b"\x32\x01a\x32\x01b\x28\x07");
    let schema = Arc::new(Schema::new(vec![
        Field::new("tags", DataType::Utf8, true),
        Field::new("state", DataType::Utf8, true),
        Field::new("cents", DataType::Int64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]));
    let decoder = BodyDecoder::new(&encoding(order(Vec::new())), &schema, |_| true).unwrap();
    let decoded = decoder.decode(&bodies(&[body]), None).unwrap();
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    assert_eq!(
        decoded.batch.column(0).as_string::<i32>().value(0),
        "[\"a\",\"b\"]"
    );
    assert_eq!(decoded.batch.column(1).as_string::<i32>().value(0), "7");
    assert_eq!(decoded.batch.column(2).null_count(), 0);
    assert_eq!(decoded.batch.column(3).null_count(), 1);
}

#[test]
fn a_bad_body_is_found_and_its_neighbours_stay_in_place() {
    let decoder = BodyDecoder::new(&encoding(order(Vec::new())), &columns(), |name| {
        name == "cents"
    });
    let rows = [
        Bytes::from_static(b"\x18\x02"),
        Bytes::from_static(b"\x18"),
        // cents as text.
        Bytes::from_static(b"\x1a\x01a"),
        // customer that is not UTF-8, though only cents is wanted.
        Bytes::from_static(b"\x12\x01\xff"),
        Bytes::from_static(b"\x18\x04"),
    ];
    let decoded = decoder.unwrap().decode(&bodies(&rows), None).unwrap();
    let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
    assert_eq!(bad, [1, 2, 3], "{:?}", decoded.errors);
    let cents = decoded.batch.column(2).as_primitive::<Int32Type>();
    assert_eq!(
        cents.iter().collect::<Vec<_>>(),
        [Some(1), None, None, None, Some(2)]
    );
    assert_eq!(decoded.batch.column(1).null_count(), 5);
}

#[test]
fn a_new_version_is_checked_against_the_last() {
    let first = encoding(order(Vec::new()));
    let second = first
        .with_schema(order(vec![field("note", 9, Type::String)]))
        .unwrap();
    assert_eq!(second.last().unwrap().version, 2);
    let reused = first
        .with_schema(order(vec![field("note", 9, Type::String)]))
        .unwrap();
    let error = reused.with_schema(order(vec![field("remark", 9, Type::String)]));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("number 9 was field note"), "{error}");
    let error = reused.with_schema(order(vec![field("note", 9, Type::Double)]));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("was string and is double")
    );
}

#[test]
fn a_new_version_is_checked_in_messages_within_messages_that_hold_themselves() {
    let set = |street: FieldDescriptorProto| {
        let message = |name: &str, field: Vec<FieldDescriptorProto>| DescriptorProto {
            name: Some(name.to_owned()),
            field,
            ..DescriptorProto::default()
        };
        let place = vec![
            street,
            typed(field("within", 2, Type::Message), ".shop.Place"),
        ];
        let shop = FileDescriptorProto {
            name: Some("shop.proto".to_owned()),
            package: Some("shop".to_owned()),
            syntax: Some("proto3".to_owned()),
            message_type: vec![
                message(
                    "Order",
                    vec![typed(field("place", 1, Type::Message), ".shop.Place")],
                ),
                message("Place", place),
            ],
            ..FileDescriptorProto::default()
        };
        Bytes::from(FileDescriptorSet { file: vec![shop] }.encode_to_vec())
    };
    let first = Encoding {
        message: "shop.Order".to_owned(),
        ..encoding(set(field("street", 1, Type::String)))
    };
    let alike = first.with_schema(set(field("street", 1, Type::Bytes)));
    assert!(alike.is_ok(), "{alike:?}");
    for (street, reason) in [
        (
            field("street", 1, Type::Sint64),
            "field place.street was string and is sint64",
        ),
        (
            field("street", 3, Type::String),
            "field place.street had the number 1 and has 3",
        ),
        (
            field("road", 1, Type::String),
            "number 1 was field place.street and is field place.road",
        ),
    ] {
        let error = first.with_schema(set(street)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        rows in proptest::collection::vec(
            (any::<u64>(), ".{0,6}", any::<i32>(), -1_000_000_000_000_i64..1_000_000_000_000,
             any::<bool>(), -1e9_f64..1e9, any::<bool>()),
            1..12,
        )
    ) {
        let ids = Decimal128Array::from_iter_values(rows.iter().map(|row| i128::from(row.0)));
        let batch = RecordBatch::try_new(columns(), vec![
            Arc::new(ids.with_precision_and_scale(20, 0).unwrap()),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.3))),
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| if row.4 { "SENT" } else { "NEW" }),
            )),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.5))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.6)))),
        ]).unwrap();
        let encoding = encoding(order(Vec::new()));
        let written = BodyEncoder::new(&encoding).unwrap().encode(&batch).unwrap();
        let decoder = BodyDecoder::new(&encoding, &columns(), |_| true).unwrap();
        let back = decoder.decode(&bodies(&written), None).unwrap();
        prop_assert!(back.errors.is_empty(), "{:?}", back.errors);
        prop_assert_eq!(back.batch, batch);
    }

    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..60)) {
        let columns = Arc::new(Schema::new(vec![
            Field::new("tags", DataType::Utf8, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("customer", DataType::Utf8, true),
        ]));
        let decoder = BodyDecoder::new(&encoding(order(Vec::new())), &columns, |_| true).unwrap();
        let decoded = decoder.decode(&bodies(&[Bytes::from(body)]), None).unwrap();
        prop_assert_eq!(decoded.batch.num_rows(), 1);
    }
}

#[test]
fn a_column_of_another_type_is_refused_by_name() {
    let wrong = Arc::new(Schema::new(vec![Field::new(
        "customer",
        DataType::Int64,
        true,
    )]));
    let error = BodyDecoder::new(&encoding(order(Vec::new())), &wrong, |_| true).unwrap_err();
    assert!(error.to_string().contains("column customer"), "{error}");
}

/// A message of these fields; those with a place in a oneof have it in the first.
fn message(syntax: &str, fields: Vec<FieldDescriptorProto>) -> Encoding {
    let file = FileDescriptorProto {
        name: Some("m.proto".to_owned()),
        syntax: Some(syntax.to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("M".to_owned()),
            oneof_decl: fields
                .iter()
                .filter_map(|field| field.oneof_index)
                .take(1)
                .map(|_| OneofDescriptorProto {
                    name: Some("one".to_owned()),
                    ..OneofDescriptorProto::default()
                })
                .collect(),
            field: fields,
            ..DescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet { file: vec![file] };
    encoding(Bytes::from(set.encode_to_vec()))
}

fn read(encoding: &Encoding, columns: &SchemaRef, body: &'static [u8]) -> RecordBatch {
    let decoder = BodyDecoder::new(encoding, columns, |_| true).unwrap();
    let decoded = decoder.decode(&bodies(&[Bytes::from_static(body)]), None);
    let decoded = decoded.unwrap();
    assert!(decoded.errors.is_empty(), "{:?}", decoded.errors);
    decoded.batch
}

#[test]
fn a_time_in_two_parts_is_merged() {
    // Field 4 with 5 seconds, and again with a million nanoseconds.
    let batch = read(
        &encoding(order(Vec::new())),
        &columns(),
        b"\x22\x02\x08\x05\x22\x04\x10\xc0\x84\x3d",
    );
    let at = batch.column_by_name("at").unwrap();
    assert_eq!(at.as_primitive::<TimestampMillisecondType>().value(0), 5001);
}

#[test]
fn of_the_members_of_a_oneof_the_last_counts() {
    let member = |name: &str, number| FieldDescriptorProto {
        oneof_index: Some(0),
        ..field(name, number, Type::Int32)
    };
    let encoding = message(
        "proto3",
        vec![member("a", 1), member("b", 2), member("c", 3)],
    );
    let columns = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Int32, true),
    ]));
    for (body, expected) in [
        (&b"\x08\x01\x10\x02"[..], [None, Some(2)]),
        (b"\x10\x02\x08\x01", [Some(1), None]),
        // Also one that nobody declared.
        (b"\x10\x02\x18\x03", [None, None]),
    ] {
        let batch = read(&encoding, &columns, body);
        let found = [0, 1].map(|at| batch.column(at).as_primitive::<Int32Type>().iter().next());
        assert_eq!(found, expected.map(Some));
    }
}

#[test]
fn a_required_field_is_filled_or_the_row_refused() {
    let mut id = field("id", 1, Type::Int32);
    id.label = Some(Label::Required.into());
    let encoding = message("proto2", vec![id, field("n", 2, Type::Int32)]);
    let encoder = BodyEncoder::new(&encoding).unwrap();
    let one = |name: &str, value: Option<i32>| {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![value]));
        let rows = RecordBatch::try_from_iter_with_nullable([(name, column, true)]);
        let written = encoder.encode(&rows.unwrap());
        written.map_err(|error| error.to_string())
    };
    assert!(one("id", Some(0)).is_ok());
    for refused in [one("id", None), one("n", Some(1))] {
        let refused = refused.unwrap_err();
        assert!(refused.contains("field id is required"), "{refused}");
    }
}

#[test]
fn a_negative_zero_is_written() {
    let columns = Arc::new(Schema::new(vec![
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float32, true),
    ]));
    let encoding = message(
        "proto3",
        vec![field("x", 1, Type::Double), field("y", 2, Type::Float)],
    );
    let batch = RecordBatch::try_new(
        Arc::clone(&columns),
        vec![
            Arc::new(Float64Array::from(vec![-0.0, 0.0])),
            Arc::new(Float32Array::from(vec![-0.0, 0.0])),
        ],
    )
    .unwrap();
    let written = BodyEncoder::new(&encoding).unwrap().encode(&batch).unwrap();
    let decoder = BodyDecoder::new(&encoding, &columns, |_| true).unwrap();
    let back = decoder.decode(&bodies(&written), None).unwrap();
    assert_eq!(format!("{:?}", back.batch), format!("{batch:?}"));
    assert!(written[1].is_empty());
}
