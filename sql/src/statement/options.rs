//! What `WITH (…)` and `SET (…)` say of a topic.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use millpond_connectors::format::body::{Compatibility, Format};
use millpond_proto::limits;

use crate::error::{SqlError, nearest};
use crate::statement::keep;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::at_token;
use crate::topic::{Changelog, Keep};

/// What is said of a topic; `None` where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicOptions {
    /// Number of queues.
    pub queues: Option<u32>,
    /// How bodies are written.
    pub format: Option<Format>,
    /// Their schema, as the user wrote it.
    pub schema: Option<String>,
    /// Protobuf: the message that they are.
    pub message: Option<String>,
    /// What a new version of the schema must be able to do.
    pub compatibility: Option<Compatibility>,
    /// What messages say of rows.
    pub changelog: Option<Changelog>,
    /// How long and how much is kept.
    pub keep: Keep,
    /// The family whose files and table it shares.
    pub family: Option<String>,
}

/// The names of the options.
const OPTIONS: [&str; 7] = [
    "queues",
    "family",
    "format",
    "schema",
    "message",
    "compatibility",
    "changelog",
];

impl StatementParser<'_> {
    /// `(queues = 8, format = 'avro')`, what `WITH` and `SET` take.
    pub(super) fn options(&mut self) -> Result<TopicOptions, SqlError> {
        self.expect(&Token::LParen)?;
        let mut options = TopicOptions::default();
        loop {
            let at = self.parser.peek_token();
            if matches!(at.token, Token::SingleQuotedString(_)) {
                return Err(at_token(
                    &at,
                    &format!("{} is a text, and an option has a name", at.token),
                    "write WITH (queues = 3, format = 'json'); a topic needs no connector: producers send to it",
                ));
            }
            let name = self.name()?;
            let known = || OPTIONS.into_iter().chain(keep::OPTIONS);
            if !known().any(|option| option == name) {
                let near = nearest(&name, known());
                return Err(at_token(
                    &at,
                    &format!("there is no option {name}"),
                    &near.map_or_else(
                        || {
                            let known: Vec<&str> = known().collect();
                            format!("the options of a topic are {}", known.join(", "))
                        },
                        |near| format!("did you mean {near}?"),
                    ),
                ));
            }
            self.expect(&Token::Eq)?;
            let is_set = match name.as_str() {
                "queues" => {
                    let queues = self.queues()?;
                    options.queues.replace(queues).is_some()
                }
                "family" => options.family.replace(self.quoted_text()?).is_some(),
                "schema" => options.schema.replace(self.quoted_text()?).is_some(),
                "message" => options.message.replace(self.quoted_text()?).is_some(),
                "format" => {
                    let format = self.one_of(Format::of, &Format::ALL.map(Format::name))?;
                    options.format.replace(format).is_some()
                }
                "compatibility" => {
                    let known = Compatibility::ALL.map(Compatibility::name);
                    let rule = self.one_of(Compatibility::of, &known)?;
                    options.compatibility.replace(rule).is_some()
                }
                name if keep::OPTIONS.contains(&name) => {
                    self.keep_option(name, &mut options.keep)?
                }
                _ => {
                    let known = Changelog::ALL.map(Changelog::name);
                    let changelog = self.one_of(Changelog::of, &known)?;
                    options.changelog.replace(changelog).is_some()
                }
            };
            if is_set {
                return Err(at_token(
                    &at,
                    &format!("option {name} is set twice"),
                    "remove one of them",
                ));
            }
            if self.parser.consume_token(&Token::RParen) {
                return Ok(options);
            }
            if !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected("a comma or a closing parenthesis"));
            }
        }
    }

    fn queues(&mut self) -> Result<u32, SqlError> {
        let at = self.parser.peek_token();
        let queues = self.sub(Parser::parse_literal_uint)?;
        match u32::try_from(queues) {
            Ok(queues) if (1..=limits::QUEUES_MAX).contains(&queues) => Ok(queues),
            _ => Err(at_token(
                &at,
                &format!(
                    "a topic has 1 to {} queues, not {queues}",
                    limits::QUEUES_MAX
                ),
                "choose a number in that range",
            )),
        }
    }

    fn quoted_text(&mut self) -> Result<String, SqlError> {
        let (text, _) = self.quoted_text_at()?;
        Ok(text)
    }

    fn quoted_text_at(&mut self) -> Result<(String, TokenWithSpan), SqlError> {
        let at = self.parser.next_token();
        match &at.token {
            Token::SingleQuotedString(text) => Ok((text.clone(), at)),
            _ => Err(at_token(
                &at,
                "the value of the option is a text",
                "write it in single quotes, as in format = 'avro'",
            )),
        }
    }

    pub(super) fn one_of<T>(
        &mut self,
        of: impl Fn(&str) -> Option<T>,
        known: &[&'static str],
    ) -> Result<T, SqlError> {
        let (text, at) = self.quoted_text_at()?;
        of(&text).ok_or_else(|| {
            let near = nearest(&text, known.iter().copied());
            at_token(
                &at,
                &format!("{text:?} is not known here"),
                &near.map_or_else(
                    || format!("write one of {}", known.join(", ")),
                    |near| format!("did you mean {near:?}?"),
                ),
            )
        })
    }
}
