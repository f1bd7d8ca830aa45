//! The words about how a topic's bodies are written, and what they mean as options of a statement.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::error::CliError;
use crate::cli::output::Format;

/// How a topic's bodies are written.
#[derive(Args, Clone, Debug, Default)]
pub struct BodyArgs {
    /// How bodies are written; JSON unless told otherwise.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<BodyFormat>,
    /// Their schema: an Avro schema (.avsc), or what protoc --include_imports --descriptor_set_out writes.
    #[arg(long, value_name = "FILE", requires = "format")]
    schema_file: Option<PathBuf>,
    /// Protobuf: the full name of the message that bodies are.
    #[arg(long, value_name = "NAME", requires = "schema_file")]
    message: Option<String>,
    /// What a new version of the schema must be able to do: read what the one before it wrote, unless told otherwise.
    #[arg(long, value_enum, value_name = "RULE", requires = "format")]
    compatibility: Option<Rule>,
    /// What messages say of rows; needs a PRIMARY KEY among the columns.
    #[arg(long, value_enum, value_name = "KIND", requires = "schema")]
    changelog: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BodyFormat {
    Json,
    Avro,
    Protobuf,
    Csv,
    Raw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rule {
    Backward,
    Forward,
    Full,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Rows,
    Upsert,
    Debezium,
}

/// Versions of the schema of a topic's bodies.
#[derive(Clone, Debug, Subcommand)]
pub enum SchemaCommand {
    /// List the versions, of one topic or of all.
    #[command(visible_alias = "list")]
    Ls {
        /// Name of the topic.
        topic: Option<String>,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Add a version; it is refused when it is not compatible with the last one.
    #[command(after_help = "Example: millpond topic schema add readings reading-2.avsc")]
    Add {
        /// Name of the topic.
        topic: String,
        /// The schema, as with millpond topic create --schema-file.
        file: PathBuf,
    },
}

impl BodyArgs {
    /// Whether anything is said.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.format.is_some() || self.changelog.is_some()
    }

    /// What is said, as options of `CREATE TOPIC … WITH`.
    ///
    /// # Errors
    /// [`CliError`] when the file of the schema can not be read.
    pub fn options(&self) -> Result<Vec<String>, CliError> {
        let mut options = Vec::new();
        if let Some(format) = self.format {
            options.push(format!("format = {}", word(format)));
        }
        if let Some(file) = &self.schema_file {
            options.push(schema_option(
                file,
                self.format == Some(BodyFormat::Protobuf),
            )?);
        }
        if let Some(message) = &self.message {
            options.push(format!("message = {}", text(message)));
        }
        if let Some(rule) = self.compatibility {
            options.push(format!("compatibility = {}", word(rule)));
        }
        if let Some(kind) = self.changelog {
            options.push(format!("changelog = {}", word(kind)));
        }
        Ok(options)
    }
}

/// `schema = '…'` of a file; a descriptor set is not text and goes as base64.
///
/// # Errors
/// [`CliError`] when the file can not be read, or is not text where it should be.
pub fn schema_option(file: &Path, is_binary: bool) -> Result<String, CliError> {
    let failed = |cause| CliError::File {
        path: file.to_owned(),
        verb: "read",
        cause,
    };
    let schema = match is_binary {
        true => STANDARD.encode(std::fs::read(file).map_err(failed)?),
        false => std::fs::read_to_string(file).map_err(failed)?,
    };
    Ok(format!("schema = {}", text(&schema)))
}

fn word(value: impl ValueEnum) -> String {
    let name = value.to_possible_value();
    text(name.as_ref().map_or("", |name| name.get_name()))
}

/// A text as SQL writes it.
#[must_use]
pub fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
