//! Names: what an identifier stands for, and how a name is written so that it stands for itself.

use datafusion::sql::sqlparser::ast::Ident;

/// The name that an identifier stands for: folded unless quoted.
#[must_use]
pub fn name_of(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// A name as it must be written to mean exactly itself.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
