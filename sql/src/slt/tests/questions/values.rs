//! What stands where a value may: columns, literals, expressions, conditions, aggregates, and the rows that topics are given.

use std::fmt::Write as _;

use super::grammar::{Asker, Kind};
use super::relations::Column;
use super::windows::LAST;

impl Asker<'_> {
    /// Rows for a topic, as an INSERT; `from` is the number of the first of them.
    pub(super) fn rows(&self, topic: &str, from: u64) -> String {
        let count = 1 + self
            .chance
            .below(if matches!(topic, "d" | "p") { 4 } else { 9 });
        let rows: Vec<String> = (from..from + count)
            .map(|at| {
                // No row is later than the watermark allows; those of `p` share no time.
                let time = match topic {
                    "p" => from + from + count - 1 - at,
                    _ => at.saturating_sub(self.chance.below(9) * self.chance.below(2)),
                };
                self.row(topic, at, time)
            })
            .collect();
        format!("INSERT INTO {topic} VALUES {}", rows.join(", "))
    }

    /// A row after which no time is open that another row has.
    pub(super) fn last_row(&self, topic: &str) -> String {
        format!(
            "INSERT INTO {topic} VALUES {}",
            self.row(topic, LAST, 20 * 500)
        )
    }

    fn row(&self, topic: &str, at: u64, time: u64) -> String {
        let id = match topic {
            "c" => self.chance.below(12),
            "d" if at < LAST => self.chance.below(5),
            _ => at,
        };
        let whole = |bound: u64| match self.chance.below(bound + 2) {
            0 => "NULL".to_owned(),
            number => (number as i64 - 2).to_string(),
        };
        let text = self.one_of(&[
            "NULL", "''", "'p'", "'q'", "'qq'", "'R'", "'q'", "'p'", "'é\"'", "'[\\,'", "'it''s'",
        ]);
        let mut row = format!("({id}, {}, {text}, {}", whole(4), whole(9));
        let quarters = match self.chance.below(8) {
            0 => "NULL".to_owned(),
            number => format!("{:.2}", (number as f64 - 4.0) / 4.0),
        };
        // Three minutes from one number to the next.
        let time = format!(
            "TIMESTAMP '2013-{:02}-{:02} {:02}:{:02}:00'",
            1 + time / 480 / 28,
            1 + time / 480 % 28,
            time / 20 % 24,
            time % 20 * 3
        );
        let time = match topic {
            "a" if at < LAST && self.chance.percent(4) => "NULL".to_owned(),
            _ => time,
        };
        let _ = match topic {
            "a" => write!(row, ", {quarters}, {time})"),
            "b" => write!(
                row,
                ", {}, {}, {quarters})",
                ["true", "false", "NULL"][self.pick(3)],
                self.one_of(&[
                    "NULL",
                    "DATE '2012-02-29'",
                    "DATE '2013-01-01'",
                    "DATE '1969-12-31'"
                ])
            ),
            "c" => write!(row, ", {quarters})"),
            _ => write!(row, ", {time})"),
        };
        row
    }

    pub(super) fn pick(&self, many: usize) -> usize {
        usize::try_from(self.chance.below(many as u64)).expect("a small number")
    }

    pub(super) fn one_of(&self, of: &[&str]) -> String {
        of[self.pick(of.len())].to_owned()
    }

    /// A column of that kind, or what stands for one.
    pub(super) fn column(&mut self, kind: Kind, columns: &[Column]) -> String {
        let of_kind: Vec<&Column> = columns
            .iter()
            .filter(|column| column.kind == kind)
            .collect();
        match of_kind.len() {
            0 => self.literal(kind),
            many => of_kind[self.pick(many)].name.clone(),
        }
    }

    /// An expression of any kind; a column if it may not be deep.
    pub(super) fn any(&mut self, columns: &[Column], deep: u32) -> (String, Kind) {
        let column = columns[self.pick(columns.len())].clone();
        if deep == 0 || self.chance.percent(60) {
            return (column.name, column.kind);
        }
        (self.expression(column.kind, columns, deep), column.kind)
    }

    pub(super) fn literal(&self, kind: Kind) -> String {
        match kind {
            Kind::Whole => (self.chance.below(9) as i64 - 2).to_string(),
            Kind::Fraction => format!("{:.2}", (self.chance.below(9) as f64 - 4.0) / 4.0),
            Kind::Text => self.one_of(&["'p'", "'q'", "'qq'", "''", "'R'"]),
            Kind::Flag => self.one_of(&["true", "false"]),
            Kind::Time => format!("TIMESTAMP '2013-01-01 0{}:30:00'", self.chance.below(3)),
            Kind::Day => self.one_of(&["DATE '2012-02-29'", "DATE '2013-01-01'"]),
            Kind::Decimal => self.one_of(&[
                "CAST(0.25 AS DECIMAL(12, 2))",
                "CAST(-1.5 AS DECIMAL(12, 2))",
            ]),
        }
    }

    pub(super) fn expression(&mut self, kind: Kind, columns: &[Column], deep: u32) -> String {
        if deep == 0 {
            return if self.chance.percent(80) {
                self.column(kind, columns)
            } else {
                self.literal(kind)
            };
        }
        let less = deep - 1;
        if self.chance.percent(15) {
            let when = self.expression(Kind::Flag, columns, less);
            let (then, other) = (
                self.expression(kind, columns, less),
                self.expression(kind, columns, less),
            );
            return match self.pick(4) {
                0 => format!("coalesce({then}, {other})"),
                1 => format!("nullif({then}, {other})"),
                2 => format!("CASE WHEN {when} THEN {then} END"),
                _ => format!("CASE WHEN {when} THEN {then} ELSE {other} END"),
            };
        }
        match kind {
            Kind::Whole => {
                let (left, right) = (
                    self.expression(kind, columns, less),
                    self.expression(kind, columns, less),
                );
                match self.pick(8) {
                    0 => format!("({left} + {right})"),
                    1 => format!("({left} - {right})"),
                    2 => format!("({left} * {right})"),
                    3 => format!("({left} % {})", 2 + self.pick(3)),
                    4 => format!("({left} / {})", 2 + self.pick(3)),
                    5 => format!("abs({left})"),
                    6 => format!(
                        "CAST(extract(day FROM {}) AS BIGINT)",
                        self.column(Kind::Day, columns)
                    ),
                    _ => format!("length({})", self.expression(Kind::Text, columns, less)),
                }
            }
            Kind::Fraction => {
                let (left, right) = (
                    self.expression(kind, columns, less),
                    self.expression(kind, columns, less),
                );
                match self.pick(4) {
                    0 => format!("({left} + {right})"),
                    1 => format!("({left} * 2)"),
                    2 => format!("-({left})"),
                    _ => format!(
                        "CAST({} AS DOUBLE)",
                        self.expression(Kind::Whole, columns, less)
                    ),
                }
            }
            Kind::Text => {
                let (left, right) = (
                    self.expression(kind, columns, less),
                    self.expression(kind, columns, less),
                );
                match self.pick(5) {
                    0 => format!("upper({left})"),
                    1 => format!("({left} || {right})"),
                    2 => format!("substr({left}, 1, 1)"),
                    3 => format!("concat({left}, '-', {right})"),
                    _ => format!(
                        "CAST({} AS VARCHAR)",
                        self.expression(Kind::Whole, columns, less)
                    ),
                }
            }
            Kind::Time => {
                let time = self.column(kind, columns);
                format!("({time} + INTERVAL '{} minutes')", self.pick(90))
            }
            Kind::Day => {
                let day = self.column(kind, columns);
                match self.pick(3) {
                    0 => format!("CAST({} AS DATE)", self.column(Kind::Time, columns)),
                    1 => format!("({day} - INTERVAL '40 days')"),
                    _ => format!("({day} + INTERVAL '1 month')"),
                }
            }
            Kind::Decimal => {
                let of = self.expression(kind, columns, less);
                match self.pick(3) {
                    0 => format!("({of} + {})", self.column(kind, columns)),
                    1 => format!(
                        "CAST({} AS DECIMAL(12, 2))",
                        self.column(Kind::Whole, columns)
                    ),
                    _ => format!("abs({of})"),
                }
            }
            Kind::Flag => self.condition(columns, less),
        }
    }

    fn condition(&mut self, columns: &[Column], less: u32) -> String {
        if less > 0 && self.chance.percent(40) {
            let (left, right) = (
                self.expression(Kind::Flag, columns, less),
                self.expression(Kind::Flag, columns, less),
            );
            return match self.pick(3) {
                0 => format!("({left} AND {right})"),
                1 => format!("({left} OR {right})"),
                _ => format!("NOT ({left})"),
            };
        }
        let kind = [
            Kind::Whole,
            Kind::Whole,
            Kind::Text,
            Kind::Fraction,
            Kind::Decimal,
            Kind::Day,
            Kind::Time,
        ][self.pick(7)];
        let (left, right) = (
            self.expression(kind, columns, less),
            self.expression(kind, columns, less),
        );
        let how = self.one_of(&["=", "<>", "<", "<=", ">", ">="]);
        match self.pick(8) {
            0 => format!("{left} IS NULL"),
            1 => format!("{left} IS NOT DISTINCT FROM {right}"),
            2 => format!("{left} IN ({}, {})", self.literal(kind), self.literal(kind)),
            3 => format!("{left} NOT IN ({}, {right})", self.literal(kind)),
            4 => format!("{left} BETWEEN {} AND {right}", self.literal(kind)),
            5 => format!(
                "{} LIKE '{}'",
                self.expression(Kind::Text, columns, less),
                self.one_of(&["q%", "%q", "_", "%"])
            ),
            _ => format!("{left} {how} {right}"),
        }
    }

    pub(super) fn aggregate(&mut self, kind: Kind, columns: &[Column]) -> String {
        let filter = if self.chance.percent(20) {
            format!(
                " FILTER (WHERE {})",
                self.expression(Kind::Flag, columns, 1)
            )
        } else {
            String::new()
        };
        let deep = u32::from(self.chance.percent(30));
        let of = self.expression(kind, columns, deep);
        let call = match kind {
            Kind::Whole => match self.pick(9) {
                0 | 1 => "count(*)".to_owned(),
                2 => format!("count({})", self.any(columns, deep).0),
                3 => format!("count(DISTINCT {})", self.any(columns, 0).0),
                4 => format!("sum(DISTINCT {of})"),
                5 => format!("min({of})"),
                6 => format!("max({of})"),
                _ => format!("sum({of})"),
            },
            Kind::Fraction => match self.pick(3) {
                0 => format!("sum({of})"),
                1 => format!("min({of})"),
                _ => format!("max({of})"),
            },
            Kind::Text => match self.pick(3) {
                0 => format!("min({of})"),
                1 => format!("max({of})"),
                _ => return format!("string_agg(DISTINCT {of}, ',' ORDER BY {of}){filter}"),
            },
            Kind::Flag => format!("bool_or({of})"),
            Kind::Time | Kind::Day => {
                format!("{}({of})", self.one_of(&["min", "max"]))
            }
            Kind::Decimal => format!("{}({of})", self.one_of(&["sum", "min", "max", "sum"])),
        };
        call + &filter
    }
}
