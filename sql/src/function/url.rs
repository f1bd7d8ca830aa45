//! Addresses of the web: `url_encode`, `url_decode`, and `parse_url`, which takes them apart.
//!
//! `parse_url(url, part)` answers `'PROTOCOL'`, `'AUTHORITY'`, `'USERINFO'`, `'HOST'`, `'PATH'`, `'QUERY'`, `'FILE'` (path and query) or `'REF'`;
//! `parse_url(url, 'QUERY', key)` the value of a parameter. What is no address, and a part that is not there, is NULL.
//! Addresses are read as browsers do: the parts are those of the address as it would be asked for (`http://Ex.com:80` has the
//! authority `ex.com` and the path `/`), and the value of a parameter is decoded.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;
use url::{Url, form_urlencoded};

use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let texts = |count: usize| TypeSignature::Exact(vec![DataType::Utf8; count]);
    let function = |name, arguments, compute: Compute| Scalar {
        name,
        arguments,
        returns: DataType::Utf8,
        compute,
    };
    vec![
        function("url_encode", texts(1), |arguments, _| {
            Ok(each(&arguments[0], |text| {
                Some(form_urlencoded::byte_serialize(text.as_bytes()).collect())
            }))
        }),
        function("url_decode", texts(1), |arguments, _| {
            Ok(each(&arguments[0], |text| {
                // As the value of a parameter without a name; what would end it is none of an encoded text.
                let whole = format!("={}", text.replace('&', "%26"));
                let mut pairs = form_urlencoded::parse(whole.as_bytes());
                Some(pairs.next()?.1.into_owned())
            }))
        }),
        function(
            "parse_url",
            TypeSignature::OneOf(vec![texts(2), texts(3)]),
            parse,
        ),
    ]
}

fn each(texts: &ArrayRef, value: impl Fn(&str) -> Option<String>) -> ArrayRef {
    let values = texts.as_string::<i32>().iter();
    let values: StringArray = values.map(|text| value(text?)).collect();
    Arc::new(values)
}

fn parse(arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, DataFusionError> {
    let columns: Vec<&StringArray> = arguments.iter().map(|column| column.as_string()).collect();
    let value = |row: usize| -> Result<Option<String>, DataFusionError> {
        if columns.iter().any(|column| column.is_null(row)) {
            return Ok(None);
        }
        let (text, name) = (columns[0].value(row), columns[1].value(row));
        part(text, name, columns.get(2).map(|column| column.value(row)))
    };
    let values = (0..rows).map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StringArray::from(values)))
}

/// A part of an address.
fn part(text: &str, name: &str, key: Option<&str>) -> Result<Option<String>, DataFusionError> {
    let known = [
        "PROTOCOL",
        "AUTHORITY",
        "USERINFO",
        "HOST",
        "PATH",
        "QUERY",
        "FILE",
        "REF",
    ];
    if !known.contains(&name) {
        return Err(DataFusionError::Execution(format!(
            "an address has no part '{name}'; write one of {}",
            known.join(", ")
        )));
    }
    let Ok(url) = Url::parse(text) else {
        return Ok(None);
    };
    if let Some(key) = key {
        let mut pairs = url.query_pairs();
        let found = pairs
            .find(|(name, _)| *name == key)
            .filter(|_| name == "QUERY");
        return Ok(found.map(|(_, value)| value.into_owned()));
    }
    let user = || match (url.username(), url.password()) {
        ("", None) => None,
        (name, None) => Some(name.to_owned()),
        (name, Some(password)) => Some(format!("{name}:{password}")),
    };
    Ok(match name {
        "PROTOCOL" => Some(url.scheme().to_owned()),
        "AUTHORITY" => Some(url.authority().to_owned()).filter(|authority| !authority.is_empty()),
        "USERINFO" => user(),
        "HOST" => url.host_str().map(str::to_owned),
        "PATH" => Some(url.path().to_owned()),
        "QUERY" => url.query().map(str::to_owned),
        "FILE" => Some(match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        }),
        _ => url.fragment().map(str::to_owned),
    })
}
