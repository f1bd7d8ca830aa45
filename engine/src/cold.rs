//! Where the cold tier lies: a URL becomes a client of an object store. The one door to stores elsewhere.
//!
//! Credentials, region and endpoint come from the variables that each provider's own tools read (`AWS_…`,
//! `GOOGLE_…`, `AZURE_…`); `main.rs` reads them and they are passed in here. What is not said is found out by the
//! client, such as the role of the machine.
//!
//! A client tries again for a short while only, because whoever calls it does too; and a put that it repeats may be
//! told that the object exists, which [`millpond_storage::tier::cold`] knows how to take.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use millpond_proto::remedy::Remedy;
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::error::OpenError;
use millpond_storage::log::COLD_DEFAULT;
use millpond_storage::tier::mirror::Mirrored;
use millpond_storage::tier::objects::DiskObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

/// Names and values of the environment that configure a client.
pub type Variables = [(String, String)];

/// Beginnings of the names of variables that matter here.
pub const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Times that a client tries again before it says no.
const RETRIES_MAX: usize = 3;
/// How long it does so.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// How long one request may take: enough for the largest file over a slow line.
const REQUEST_LIMIT: &str = "120s";

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// The URL says nothing that is known.
    #[error(
        "{url:?} is no place for the cold tier; write file:///folder, s3://bucket/prefix, gs://bucket/prefix or \
         az://container/prefix"
    )]
    Url {
        /// As typed.
        url: String,
    },
    /// The folder can not be used.
    #[error(transparent)]
    Folder(#[from] OpenError),
    /// The client can not be made.
    #[error("no client for {url} can be set up; check the variables {variables}…")]
    Client {
        /// The store.
        url: String,
        /// Beginning of the names of the variables that configure it.
        variables: &'static str,
        /// What is wrong.
        #[source]
        source: object_store::Error,
    },
}

impl ColdError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Url { .. } | Self::Client { .. } => Remedy::FixRequest,
            Self::Folder(error) => error.remedy(),
        }
    }
}

/// A place for the cold tier, as named by a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdUrl {
    /// Without slashes at the end.
    url: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// In the data folder.
    Data,
    /// In a folder of its own.
    Folder(PathBuf),
    /// In a bucket, below a prefix.
    Bucket(Provider, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    Amazon,
    Google,
    Azure,
}

impl Default for ColdUrl {
    fn default() -> Self {
        Self {
            url: COLD_DEFAULT.to_owned(),
            place: Place::Data,
        }
    }
}

impl FromStr for ColdUrl {
    type Err = ColdError;

    fn from_str(typed: &str) -> Result<Self, ColdError> {
        if typed == COLD_DEFAULT {
            return Ok(Self::default());
        }
        let unknown = || ColdError::Url {
            url: typed.to_owned(),
        };
        let url = typed.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let place = match scheme {
            "file" if rest.starts_with('/') => Place::Folder(PathBuf::from(rest)),
            "s3" | "gs" | "az" => {
                let provider = match scheme {
                    "s3" => Provider::Amazon,
                    "gs" => Provider::Google,
                    _ => Provider::Azure,
                };
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || Path::parse(prefix).is_err() {
                    return Err(unknown());
                }
                Place::Bucket(provider, prefix.to_owned())
            }
            _ => return Err(unknown()),
        };
        Ok(Self {
            url: url.to_owned(),
            place,
        })
    }
}

impl ColdUrl {
    /// What it is called in messages and remembered by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.url
    }

    /// Where outside readers find it, as a URL without a slash at the end; `data` is the data folder. None when the
    /// place has no name that a URL can hold.
    #[must_use]
    pub fn location(&self, data: &std::path::Path) -> Option<String> {
        if let Place::Data = &self.place {
            let objects = std::path::absolute(data).ok()?.join(COLD_DEFAULT);
            return Some(format!("file://{}", objects.to_str()?));
        }
        Some(self.url.trim_end_matches('/').to_owned())
    }

    /// The same as [`ColdUrl::open`], with copies of manifests on `disk` when the store is another machine's, so
    /// that a server starts while that is down.
    ///
    /// # Errors
    /// [`ColdError`].
    pub fn open_for_a_server(
        &self,
        disk: &Arc<dyn Disk>,
        variables: &Variables,
    ) -> Result<Arc<dyn ObjectStore>, ColdError> {
        let objects = self.open(disk, variables)?;
        Ok(match self.place {
            Place::Data | Place::Folder(_) => objects,
            Place::Bucket(..) => Arc::new(Mirrored::new(objects, Arc::clone(disk))),
        })
    }

    /// The object store there; `disk` is the data folder.
    ///
    /// # Errors
    /// [`ColdError`]. Whether the store answers is found out by its first call.
    pub fn open(
        &self,
        disk: &Arc<dyn Disk>,
        variables: &Variables,
    ) -> Result<Arc<dyn ObjectStore>, ColdError> {
        let (provider, prefix) = match &self.place {
            Place::Data => {
                let disk = Arc::clone(disk);
                return Ok(Arc::new(DiskObjectStore::new(disk, COLD_DEFAULT)));
            }
            Place::Folder(folder) => {
                let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(folder)?);
                return Ok(Arc::new(DiskObjectStore::new(disk, "")));
            }
            Place::Bucket(provider, prefix) => (*provider, prefix),
        };
        let bucket = provider.client(&self.url, variables);
        let bucket = bucket.map_err(|source| ColdError::Client {
            url: self.url.clone(),
            variables: provider.variables(),
            source,
        })?;
        Ok(if prefix.is_empty() {
            bucket
        } else {
            Arc::new(PrefixStore::new(bucket, prefix.as_str()))
        })
    }
}

impl Provider {
    fn variables(self) -> &'static str {
        match self {
            Self::Amazon => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    fn client(
        self,
        url: &str,
        variables: &Variables,
    ) -> object_store::Result<Arc<dyn ObjectStore>> {
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_LIMIT,
            ..RetryConfig::default()
        };
        let limit = ClientConfigKey::Timeout;
        let mine = variables
            .iter()
            .filter(|(name, _)| name.starts_with(self.variables()));
        // A variable that is not for the store, such as AWS_PAGER, is none of our business.
        Ok(match self {
            Self::Amazon => {
                let builder = AmazonS3Builder::new()
                    .with_retry(retry)
                    .with_config(AmazonS3ConfigKey::Client(limit), REQUEST_LIMIT);
                let builder = mine.fold(builder, |builder, (name, value)| {
                    match name.to_ascii_lowercase().parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    }
                });
                Arc::new(builder.with_url(url).build()?)
            }
            Self::Google => {
                let builder = GoogleCloudStorageBuilder::new()
                    .with_retry(retry)
                    .with_config(GoogleConfigKey::Client(limit), REQUEST_LIMIT);
                let builder = mine.fold(builder, |builder, (name, value)| {
                    match name.to_ascii_lowercase().parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    }
                });
                Arc::new(builder.with_url(url).build()?)
            }
            Self::Azure => {
                let builder = MicrosoftAzureBuilder::new()
                    .with_retry(retry)
                    .with_config(AzureConfigKey::Client(limit), REQUEST_LIMIT);
                let builder = mine.fold(builder, |builder, (name, value)| {
                    match name.to_ascii_lowercase().parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    }
                });
                Arc::new(builder.with_url(url).build()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use millpond_storage::disk::simulated::SimulatedDisk;

    use super::*;

    fn open(url: &str, variables: &[(&str, &str)]) -> Result<Arc<dyn ObjectStore>, ColdError> {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<_> = variables.iter().map(owned).collect();
        url.parse::<ColdUrl>()?.open(&disk, &variables)
    }

    #[test]
    fn places_are_known_by_their_urls() {
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "account")];
        for url in [
            "objects",
            "s3://bucket",
            "s3://bucket/a/b/",
            "gs://bucket/a",
        ] {
            assert!(open(url, &[]).is_ok(), "{url}");
        }
        open("az://container/a", &azure).unwrap();
        let url: ColdUrl = "s3://bucket/a/".parse().unwrap();
        assert_eq!(url.name(), "s3://bucket/a");
        assert_eq!(ColdUrl::default().name(), "objects");
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_would_be_one() {
        for url in [
            "",
            "bucket",
            "s3://",
            "ftp://a",
            "file://a/b",
            "s3://b/a//c",
        ] {
            let error = open(url, &[]).unwrap_err();
            assert!(matches!(error, ColdError::Url { .. }), "{url}: {error}");
            assert!(error.to_string().contains("s3://bucket/prefix"), "{error}");
        }
    }

    #[test]
    fn variables_reach_the_client_and_a_bad_one_is_named() {
        let plain = [
            ("AWS_ENDPOINT", "http://127.0.0.1:1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_PAGER", "less"),
        ];
        open("s3://bucket/a", &plain).unwrap();
        let error = open("s3://bucket/a", &[("AWS_ALLOW_HTTP", "perhaps")]).unwrap_err();
        assert!(error.to_string().contains("AWS_"), "{error}");
        let error = open("az://container", &[]).unwrap_err();
        assert!(error.to_string().contains("AZURE_"), "{error}");
    }

    #[test]
    fn a_folder_of_its_own_is_locked_like_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("cold").display());
        let held = open(&url, &[]).unwrap();
        let error = open(&url, &[]).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(held);
    }
}
