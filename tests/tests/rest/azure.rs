//! The REST API of Azure's Blob storage, as far as `object_store` speaks it: the account is in the path, as emulators
//! have it, removals come in batches, and a token opens the door.

use std::net::SocketAddr;

use super::{BUCKET, Call, MADE_AT, Outcome, Request, Response, split_target};

const ACCOUNT: &str = "pond";
const TOKEN: &str = "a-token-for-tests";
/// What parts of an answer stand between.
const BOUNDARY: &str = "batch_of_tests";

pub(super) fn variables(address: SocketAddr) -> Vec<(String, String)> {
    [
        (
            "AZURE_STORAGE_ENDPOINT",
            format!("http://{address}/{ACCOUNT}"),
        ),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
        ("AZURE_STORAGE_TOKEN", TOKEN.to_owned()),
        ("AZURE_ALLOW_HTTP", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The key of a path, empty for the container itself.
fn key_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix('/')?.strip_prefix(ACCOUNT)?;
    let rest = rest.strip_prefix('/')?.strip_prefix(BUCKET)?;
    match rest.strip_prefix('/') {
        Some(key) => Some(key.to_owned()),
        None => rest.is_empty().then(String::new),
    }
}

pub(super) fn call(request: &Request) -> Result<Call, u16> {
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Err(403);
    }
    let key = key_of(&request.path).ok_or(404_u16)?;
    let what = request.query("comp").unwrap_or_default();
    match (request.method.as_str(), what.as_str()) {
        ("GET", "list") => Ok(Call::List {
            prefix: request.query("prefix").unwrap_or_default(),
            delimiter: request.query("delimiter"),
            after: request.query("marker"),
        }),
        ("POST", "batch") => {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let lines = body.lines().filter_map(|line| line.strip_prefix("DELETE "));
            let targets = lines.map(|line| line.split(' ').next().unwrap_or_default());
            let keys = targets.map(|target| key_of(&split_target(target).0));
            Ok(Call::Delete(keys.collect::<Option<_>>().ok_or(400_u16)?))
        }
        ("GET" | "HEAD", "") => Ok(Call::Get {
            key,
            range: request.range(),
        }),
        ("PUT", "") if request.header("x-ms-blob-type") == Some("BlockBlob") => Ok(Call::Put {
            key,
            bytes: request.body.clone(),
            only_new: request.header("if-none-match") == Some("*"),
        }),
        _ => Err(405),
    }
}

pub(super) fn response(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Put { tag } => Response::new(201).with("etag", tag),
        Outcome::Taken => Response::new(409),
        Outcome::Deleted(there) => {
            let mut parts = String::new();
            for (number, there) in there.into_iter().enumerate() {
                let status = if there {
                    "202 Accepted"
                } else {
                    "404 Not Found"
                };
                parts.push_str(&format!(
                    "--{BOUNDARY}\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n\
                     HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"
                ));
            }
            parts.push_str(&format!("--{BOUNDARY}--\r\n"));
            let kind = format!("multipart/mixed; boundary={BOUNDARY}");
            Response::new(202).with("content-type", kind).body(parts)
        }
        Outcome::Listed {
            objects,
            folders,
            next,
        } => {
            let mut xml = "<EnumerationResults><Blobs>".to_owned();
            for (key, size) in objects {
                xml.push_str(&format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>{MADE_AT}</Last-Modified>\
                     <Content-Length>{size}</Content-Length>\
                     <Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
                ));
            }
            for folder in folders {
                xml.push_str(&format!("<BlobPrefix><Name>{folder}</Name></BlobPrefix>"));
            }
            let next = next.unwrap_or_default();
            xml.push_str(&format!(
                "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
            ));
            Response::new(200).body(xml)
        }
        Outcome::Found { .. } | Outcome::Missing | Outcome::Refused(_) => Response::new(500),
    }
}
