//! The XML API of Google Cloud Storage, as far as `object_store` speaks it.

use std::net::SocketAddr;

use super::{BUCKET, Call, Outcome, Request, Response};

/// A service account whose requests are not signed, as emulators want it.
const ACCOUNT: &str =
    r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;

pub(super) fn variables(address: SocketAddr) -> Vec<(String, String)> {
    [
        ("GOOGLE_BASE_URL", format!("http://{address}")),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", ACCOUNT.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) fn call(request: &Request) -> Result<Call, u16> {
    let path = request.path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if bucket != BUCKET {
        return Err(404);
    }
    let key = key.to_owned();
    match request.method.as_str() {
        "GET" if key.is_empty() => Ok(Call::List {
            prefix: request.query("prefix").unwrap_or_default(),
            delimiter: request.query("delimiter"),
            after: request.query("continuation-token"),
        }),
        "GET" | "HEAD" => Ok(Call::Get {
            key,
            range: request.range(),
        }),
        "PUT" => Ok(Call::Put {
            key,
            bytes: request.body.clone(),
            only_new: request.header("x-goog-if-generation-match") == Some("0"),
        }),
        "DELETE" => Ok(Call::Delete(vec![key])),
        _ => Err(405),
    }
}

pub(super) fn response(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Put { tag } => Response::new(200)
            .with("etag", tag)
            .with("x-goog-generation", "1"),
        Outcome::Taken => Response::new(412),
        Outcome::Deleted(there) => Response::new(if there == [true] { 204 } else { 404 }),
        Outcome::Listed {
            objects,
            folders,
            next,
        } => {
            let mut xml = "<ListBucketResult>".to_owned();
            for (key, size) in objects {
                xml.push_str(&format!(
                    "<Contents><Key>{key}</Key><Size>{size}</Size>\
                     <LastModified>2023-11-14T22:13:20.000Z</LastModified></Contents>"
                ));
            }
            for folder in folders {
                xml.push_str(&format!(
                    "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
                ));
            }
            if let Some(next) = next {
                xml.push_str(&format!(
                    "<NextContinuationToken>{next}</NextContinuationToken>"
                ));
            }
            xml.push_str("</ListBucketResult>");
            Response::new(200).body(xml)
        }
        Outcome::Found { .. } | Outcome::Missing | Outcome::Refused(_) => Response::new(500),
    }
}
