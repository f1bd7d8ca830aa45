//! Text to condition: RocketMQ's SQL92.
//!
//! ```text
//! or         = and { OR and }
//! and        = not { AND not }
//! not        = NOT not | comparison
//! comparison = primary [ sign primary | IS [NOT] NULL | [NOT] BETWEEN primary AND primary
//!                      | [NOT] IN ( literal {, literal} )
//!                      | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text ]
//! primary    = ( or ) | name | text | number | TRUE | FALSE
//! sign       = "=" | "<>" | "!=" | "<" | "<=" | ">" | ">="
//! ```
//!
//! NOT binds as in SQL: `NOT a = 1` is `NOT (a = 1)`. There is no arithmetic and no LIKE. Nesting is
//! bounded by [`limits::FILTER_DEPTH_MAX`]; chains of AND and OR do not nest.

use millpond_proto::limits;

use crate::broker::filter::FilterError;
use crate::broker::filter::sql92::{Condition, Place, Sign, Value};

/// Reads a whole condition.
///
/// # Errors
/// [`FilterError`] with the place and what to write instead.
pub fn parse(text: &str) -> Result<Condition, FilterError> {
    if text.trim().is_empty() {
        return Err(FilterError::Empty);
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        end: text.chars().count() + 1,
    };
    let condition = parser.or(0)?;
    match parser.peek() {
        None => Ok(condition),
        Some(_) => Err(parser.unexpected(
            "AND, OR or the end",
            "join conditions with AND or OR, and close every parenthesis once",
        )),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Integer(i64),
    Decimal(f64),
    /// In capitals; one of [`KEYWORDS`].
    Keyword(&'static str),
    Sign(Sign),
    Open,
    Close,
    Comma,
}

const KEYWORDS: [&str; 14] = [
    "AND",
    "OR",
    "NOT",
    "BETWEEN",
    "IN",
    "IS",
    "NULL",
    "TRUE",
    "FALSE",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
    "LIKE",
    "ESCAPE",
];

/// Tokens with their positions, in characters from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&first) = characters.get(at) {
        let start = at;
        let second = characters.get(at + 1).copied();
        let (token, length) = match (first, second) {
            _ if first.is_whitespace() => {
                at += 1;
                continue;
            }
            ('(', _) => (Token::Open, 1),
            (')', _) => (Token::Close, 1),
            (',', _) => (Token::Comma, 1),
            ('=', _) => (Token::Sign(Sign::Equal), 1),
            ('<', Some('>')) | ('!', Some('=')) => (Token::Sign(Sign::NotEqual), 2),
            ('<', Some('=')) => (Token::Sign(Sign::LessOrEqual), 2),
            ('>', Some('=')) => (Token::Sign(Sign::GreaterOrEqual), 2),
            ('<', _) => (Token::Sign(Sign::Less), 1),
            ('>', _) => (Token::Sign(Sign::Greater), 1),
            ('\'', _) => quoted(&characters, start)?,
            _ if starts_number(first, second) => number(&characters, start)?,
            _ if starts_name(first) => word(&characters, start),
            _ => return Err(stranger(first, start)),
        };
        tokens.push((start + 1, token));
        at += length;
    }
    Ok(tokens)
}

fn starts_name(character: char) -> bool {
    character.is_alphabetic() || character == '_' || character == '$'
}

fn starts_number(first: char, second: Option<char>) -> bool {
    let digit = |one: char| one.is_ascii_digit();
    let point = |one: char| one == '.';
    digit(first)
        || (point(first) && second.is_some_and(digit))
        || ("+-".contains(first) && second.is_some_and(|one| digit(one) || point(one)))
}

fn word(characters: &[char], start: usize) -> (Token, usize) {
    let continues = |one: &&char| starts_name(**one) || one.is_numeric();
    let word: String = characters[start..].iter().take_while(continues).collect();
    let length = word.chars().count();
    let keyword = KEYWORDS
        .into_iter()
        .find(|one| one.eq_ignore_ascii_case(&word));
    let token = keyword.map_or(Token::Name(word), Token::Keyword);
    (token, length)
}

/// Text between quotes; a doubled quote stands for one.
fn quoted(characters: &[char], start: usize) -> Result<(Token, usize), FilterError> {
    let mut text = String::new();
    let mut at = start + 1;
    loop {
        match (characters.get(at), characters.get(at + 1)) {
            (Some('\''), Some('\'')) => {
                text.push('\'');
                at += 2;
            }
            (Some('\''), _) => return Ok((Token::Text(text), at + 1 - start)),
            (Some(&other), _) => {
                text.push(other);
                at += 1;
            }
            (None, _) => {
                return Err(FilterError::Syntax {
                    position: start + 1,
                    found: "a text without end".to_owned(),
                    expected: "a text in quotes",
                    advice: "close it with ' and write '' for a quote inside",
                });
            }
        }
    }
}

fn number(characters: &[char], start: usize) -> Result<(Token, usize), FilterError> {
    let mut exponent = false;
    let continues = |one: &&char| {
        let follows = one.is_alphanumeric() || **one == '.' || (exponent && "+-".contains(**one));
        exponent = matches!(**one, 'e' | 'E');
        follows
    };
    let sign = characters
        .get(start)
        .filter(|one| "+-".contains(**one))
        .copied();
    let from = start + usize::from(sign.is_some());
    let digits: String = characters[from..].iter().take_while(continues).collect();
    let length = from - start + digits.chars().count();
    let signed = match sign {
        Some('-') => format!("-{digits}"),
        _ => digits.clone(),
    };
    let whole = signed.trim_end_matches(['l', 'L']);
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let token = if let Some(hexadecimal) = hexadecimal {
        let value = i64::from_str_radix(hexadecimal, 16).ok();
        value.map(|value| Token::Integer(if sign == Some('-') { -value } else { value }))
    } else if let Ok(integer) = whole.parse::<i64>() {
        Some(Token::Integer(integer))
    } else {
        let decimal = signed.parse::<f64>().ok();
        decimal.filter(|one| one.is_finite()).map(Token::Decimal)
    };
    match token {
        Some(token) => Ok((token, length)),
        None => Err(FilterError::Syntax {
            position: start + 1,
            found: format!("{:?}", shorten(&signed)),
            expected: "a number",
            advice: "write 12, 0x1F, -3.5 or 1e6; a name can not begin with a digit",
        }),
    }
}

fn stranger(character: char, at: usize) -> FilterError {
    let advice = match character {
        '"' | '`' => "write text in single quotes, and names without quotes",
        '+' | '-' | '*' | '/' | '%' => "there is no arithmetic; compare with a number",
        '&' | '|' => "write AND and OR",
        '.' => "names have letters, digits, _ and $; name the property without a point",
        '!' => "write NOT before a condition, <> between values",
        _ => "names have letters, digits, _ and $; text stands in single quotes",
    };
    FilterError::Syntax {
        position: at + 1,
        found: format!("{character:?}"),
        expected: "a name, a value or a sign",
        advice,
    }
}

/// The beginning of what an error quotes.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    text.chars().take(SHOWN).collect()
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    /// Position behind the last character.
    end: usize,
}

impl Parser {
    fn or(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let mut some = vec![self.and(depth)?];
        while self.take_keyword("OR") {
            some.push(self.and(depth)?);
        }
        Ok(single(some, Condition::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let mut all = vec![self.not(depth)?];
        while self.take_keyword("AND") {
            all.push(self.not(depth)?);
        }
        Ok(single(all, Condition::And))
    }

    fn not(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let position = self.position();
        if self.take_keyword("NOT") {
            let condition = self.not(deeper(depth, position)?)?;
            return Ok(Condition::Not(Box::new(condition)));
        }
        self.comparison(depth)
    }

    fn comparison(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let start = self.position();
        let left = self.primary(depth)?;
        if let Some(Token::Sign(sign)) = self.peek() {
            let sign = *sign;
            let left = value(left, start)?;
            self.next += 1;
            return self.compare(left, start, sign, depth);
        }
        if self.take_keyword("IS") {
            let negated = self.take_keyword("NOT");
            if !self.take_keyword("NULL") {
                return Err(self.unexpected(
                    "NULL",
                    "write IS NULL or IS NOT NULL; compare other values with = or <>",
                ));
            }
            let absent = Condition::IsNull(property(left, start, "IS NULL")?);
            return Ok(unless(negated, absent));
        }
        let negated = self.take_keyword("NOT");
        let condition = match self.peek() {
            Some(Token::Keyword("BETWEEN")) => {
                self.next += 1;
                self.between(value(left, start)?, start, depth)?
            }
            Some(Token::Keyword("IN")) => {
                self.next += 1;
                let value = property(left, start, "IN")?;
                let list = self.list()?;
                Condition::In { value, list }
            }
            Some(Token::Keyword(word @ ("CONTAINS" | "STARTSWITH" | "ENDSWITH"))) => {
                let place = match *word {
                    "CONTAINS" => Place::Anywhere,
                    "STARTSWITH" => Place::Start,
                    _ => Place::End,
                };
                self.next += 1;
                let value = property(left, start, "CONTAINS, STARTSWITH and ENDSWITH")?;
                let text = self.text()?;
                Condition::Holds { value, place, text }
            }
            Some(Token::Keyword("LIKE")) => {
                return Err(self.unexpected(
                    "a comparison",
                    "there is no LIKE; write CONTAINS 'x', STARTSWITH 'x' or ENDSWITH 'x'",
                ));
            }
            _ if negated => {
                return Err(self.unexpected(
                    "BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH",
                    "write NOT before the condition to negate it",
                ));
            }
            _ => left,
        };
        Ok(unless(negated, condition))
    }

    fn compare(
        &mut self,
        left: Value,
        start: usize,
        sign: Sign,
        depth: usize,
    ) -> Result<Condition, FilterError> {
        let position = self.position();
        let right = self.primary(depth)?;
        let right = value(right, position)?;
        if sign.orders() {
            orderable(&left, start)?;
            orderable(&right, position)?;
        }
        if let Some(Token::Sign(_)) = self.peek() {
            return Err(self.unexpected(
                "AND, OR or the end",
                "compare two values at a time: a < b AND b < c",
            ));
        }
        Ok(Condition::Compare { left, sign, right })
    }

    fn between(
        &mut self,
        middle: Value,
        start: usize,
        depth: usize,
    ) -> Result<Condition, FilterError> {
        orderable(&middle, start)?;
        let low_at = self.position();
        let low = self.primary(depth)?;
        let low = value(low, low_at)?;
        orderable(&low, low_at)?;
        if !self.take_keyword("AND") {
            return Err(self.unexpected("AND", "write a BETWEEN 1 AND 5"));
        }
        let high_at = self.position();
        let high = self.primary(depth)?;
        let high = value(high, high_at)?;
        orderable(&high, high_at)?;
        let reversed = match (&low, &high) {
            (Value::Integer(low), Value::Integer(high)) => low > high,
            (Value::Decimal(low), Value::Decimal(high)) => low > high,
            _ => false,
        };
        if reversed {
            return Err(FilterError::Syntax {
                position: low_at,
                found: format!("{low} AND {high}"),
                expected: "the lower bound first",
                advice: "swap the bounds; as it stands nothing matches",
            });
        }
        Ok(Condition::And(vec![
            Condition::Compare {
                left: middle.clone(),
                sign: Sign::GreaterOrEqual,
                right: low,
            },
            Condition::Compare {
                left: middle,
                sign: Sign::LessOrEqual,
                right: high,
            },
        ]))
    }

    fn list(&mut self) -> Result<Vec<Value>, FilterError> {
        const ADVICE: &str = "write a IN ('x', 'y')";
        if !self.take(&Token::Open) {
            return Err(self.unexpected("(", ADVICE));
        }
        let mut list = Vec::new();
        loop {
            let one = match self.peek() {
                Some(Token::Text(text)) => Value::Text(text.clone()),
                Some(Token::Integer(number)) => Value::Integer(*number),
                Some(Token::Decimal(number)) => Value::Decimal(*number),
                _ => return Err(self.unexpected("a text or a number", ADVICE)),
            };
            self.next += 1;
            list.push(one);
            if self.take(&Token::Comma) {
                continue;
            }
            if self.take(&Token::Close) {
                return Ok(list);
            }
            return Err(self.unexpected(", or )", ADVICE));
        }
    }

    fn text(&mut self) -> Result<String, FilterError> {
        let Some(Token::Text(text)) = self.peek() else {
            return Err(self.unexpected("a text", "write a CONTAINS 'x'"));
        };
        let text = text.clone();
        self.next += 1;
        Ok(text)
    }

    fn primary(&mut self, depth: usize) -> Result<Condition, FilterError> {
        let position = self.position();
        let value = match self.peek() {
            Some(Token::Open) => {
                self.next += 1;
                let inside = self.or(deeper(depth, position)?)?;
                if !self.take(&Token::Close) {
                    return Err(self.unexpected(
                        "AND, OR or )",
                        "close the parenthesis, or join conditions with AND or OR",
                    ));
                }
                return Ok(inside);
            }
            Some(Token::Name(name)) => Value::Property(name.clone()),
            Some(Token::Text(text)) => Value::Text(text.clone()),
            Some(Token::Integer(number)) => Value::Integer(*number),
            Some(Token::Decimal(number)) => Value::Decimal(*number),
            Some(Token::Keyword("TRUE")) => Value::Truth(true),
            Some(Token::Keyword("FALSE")) => Value::Truth(false),
            Some(Token::Keyword("NULL")) => {
                return Err(self.unexpected("a value", "write IS NULL or IS NOT NULL"));
            }
            _ => {
                return Err(self.unexpected(
                    "a name or a value",
                    "write a condition such as a > 5 AND TAGS = 'x'",
                ));
            }
        };
        self.next += 1;
        Ok(Condition::Truth(value))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn position(&self) -> usize {
        self.tokens
            .get(self.next)
            .map_or(self.end, |(position, _)| *position)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    fn take_keyword(&mut self, keyword: &'static str) -> bool {
        self.take(&Token::Keyword(keyword))
    }

    fn unexpected(&self, expected: &'static str, advice: &'static str) -> FilterError {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(Token::Name(name)) => format!("the name {}", shorten(name)),
            Some(Token::Text(text)) => format!("the text '{}'", shorten(text)),
            Some(Token::Integer(number)) => format!("the number {number}"),
            Some(Token::Decimal(number)) => format!("the number {number}"),
            Some(Token::Keyword(keyword)) => (*keyword).to_owned(),
            Some(Token::Sign(_)) => "a sign".to_owned(),
            Some(Token::Open) => "(".to_owned(),
            Some(Token::Close) => ")".to_owned(),
            Some(Token::Comma) => "a comma".to_owned(),
        };
        FilterError::Syntax {
            position: self.position(),
            found,
            expected,
            advice,
        }
    }
}

fn single(mut conditions: Vec<Condition>, many: fn(Vec<Condition>) -> Condition) -> Condition {
    match conditions.len() {
        1 => conditions.remove(0),
        _ => many(conditions),
    }
}

fn unless(negated: bool, condition: Condition) -> Condition {
    if negated {
        Condition::Not(Box::new(condition))
    } else {
        condition
    }
}

fn deeper(depth: usize, position: usize) -> Result<usize, FilterError> {
    if depth >= limits::FILTER_DEPTH_MAX {
        return Err(FilterError::TooDeep { position });
    }
    Ok(depth + 1)
}

/// What stands beside a sign.
fn value(condition: Condition, position: usize) -> Result<Value, FilterError> {
    match condition {
        Condition::Truth(value) => Ok(value),
        _ => Err(FilterError::Syntax {
            position,
            found: "a condition".to_owned(),
            expected: "a name or a value",
            advice: "conditions are joined with AND and OR, not compared",
        }),
    }
}

/// What stands before IN, IS NULL and the like.
fn property(
    condition: Condition,
    position: usize,
    what: &'static str,
) -> Result<Value, FilterError> {
    match condition {
        Condition::Truth(value @ Value::Property(_)) => Ok(value),
        _ => Err(FilterError::Syntax {
            position,
            found: format!("a value before {what}"),
            expected: "the name of a property",
            advice: "write the property on the left",
        }),
    }
}

/// A value that can be less or greater than another: a number, or a property that holds one.
fn orderable(value: &Value, position: usize) -> Result<(), FilterError> {
    match value {
        Value::Property(_) | Value::Integer(_) | Value::Decimal(_) => Ok(()),
        Value::Text(_) | Value::Truth(_) => Err(FilterError::Syntax {
            position,
            found: shorten(&value.to_string()),
            expected: "a number or a property",
            advice: "only numbers have an order; write the number without quotes, or use =, <> or IN",
        }),
    }
}
