//! Questions about windows of time: their groups, their first rows, joins of windows with each other, sessions.

use std::fmt::Write as _;

use super::grammar::{Asker, Kind, Question};
use super::relations::{Column, Relation, columns_of, within};

/// Rows from this number on come last, to let time pass over all others.
pub(super) const LAST: u64 = 1_000_000;

impl Asker<'_> {
    /// Groups of windows over the topic with a time, over a question that passes it on, or over windows; those of the last rows left
    /// out if it `closes`.
    pub(super) fn windowed(&mut self, closes: bool) -> Question {
        match self.pick(if closes { 4 } else { 7 }) {
            0 | 1 => self.windows_over("TABLE a", &columns_of("a", ""), "at", closes),
            2 => {
                let relation = self.table_of("a");
                let filter = self.filter(&relation, 0);
                let mut question = self.projected(&relation, &filter);
                let name = relation.name();
                let passed = format!("SELECT {name}.at AS at, {name}.id AS id, ");
                question.sql = question.sql.replacen("SELECT ", &passed, 1);
                let over = format!("TABLE ({})", question.sql);
                self.windows_over(&over, &question.columns(), "at", closes)
            }
            3 => {
                let question = self.windows_over("TABLE a", &columns_of("a", ""), "at", closes);
                let bounds = "SELECT window_start, window_end, ";
                let sql = question.sql.replacen("SELECT ", bounds, 1);
                let over = format!("TABLE ({sql})");
                self.windows_over(&over, &question.columns(), "window_start", false)
            }
            4 => self.windows_joined(),
            5 => self.first_of_windows(),
            _ => {
                let relation = self.windows("TABLE a", &columns_of("a", ""), "at");
                let filter = self.filter(&relation, 0);
                let name = relation.name();
                let (item, kind) = self.any(&relation.columns, 1);
                Question {
                    sql: format!(
                        "SELECT DISTINCT {name}.window_end AS c1, {item} AS c2 FROM {}{filter}",
                        relation.sql
                    ),
                    kinds: vec![Kind::Time, kind],
                }
            }
        }
    }

    /// Windows as they stand behind `FROM`.
    fn windows(&mut self, over: &str, columns: &[Column], time: &str) -> Relation {
        let name = self.name();
        let (function, sizes) = match self.pick(4) {
            0 | 1 => (
                "TUMBLE",
                format!("INTERVAL '{} minutes'", 5 + self.pick(20)),
            ),
            2 => (
                "HOP",
                "INTERVAL '5 minutes', INTERVAL '15 minutes'".to_owned(),
            ),
            _ => (
                "CUMULATE",
                "INTERVAL '10 minutes', INTERVAL '30 minutes'".to_owned(),
            ),
        };
        Relation {
            sql: format!("{function}({over}, DESCRIPTOR({time}), {sizes}) AS {name}"),
            columns: within(&name, columns),
            unique: Vec::new(),
        }
    }

    fn windows_over(
        &mut self,
        over: &str,
        columns: &[Column],
        time: &str,
        closes: bool,
    ) -> Question {
        let relation = self.windows(over, columns, time);
        let name = relation.name();
        let mut keys = vec![(format!("{name}.window_end"), Kind::Time)];
        let mut rest = format!(" GROUP BY {name}.window_start, {name}.window_end");
        for _ in 0..self.pick(3) {
            let (key, kind) = self.any(&relation.columns, 0);
            let _ = write!(rest, ", {key}");
            keys.push((key, kind));
        }
        if self.chance.percent(15) {
            let aggregate = self.aggregate(Kind::Whole, &relation.columns);
            let _ = write!(rest, " HAVING {aggregate} > 1");
        }
        let filter = self.earlier(&relation, closes);
        self.aggregated(&relation, keys, &format!("{filter}{rest}"))
    }

    /// A condition, and that rows are not the last ones.
    pub(super) fn earlier(&mut self, relation: &Relation, closes: bool) -> String {
        let filter = self.filter(relation, 0);
        let name = relation.name();
        match (closes, filter.strip_prefix(" WHERE ")) {
            (false, _) => filter,
            (true, None) => format!(" WHERE {name}.id < {LAST}"),
            (true, Some(more)) => format!(" WHERE {name}.id < {LAST} AND ({more})"),
        }
    }

    /// Rows of equal windows of two topics.
    fn windows_joined(&mut self) -> Question {
        let (left, right) = (self.name(), self.name());
        let (one, other) = (self.one_of(&["a", "a", "p"]), self.one_of(&["a", "p", "p"]));
        let minutes = 5 + self.pick(20);
        let side = |topic: &str, name: &str| {
            format!("TUMBLE(TABLE {topic}, DESCRIPTOR(at), INTERVAL '{minutes} minutes') AS {name}")
        };
        let way = self.one_of(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let mut sql = format!(
            "{} {way} {} ON {left}.window_start = {right}.window_start AND {left}.window_end = {right}.window_end",
            side(&one, &left),
            side(&other, &right)
        );
        if self.chance.percent(80) {
            let key = self.one_of(&["k", "s", "x"]);
            let _ = write!(sql, " AND {left}.{key} = {right}.{key}");
        }
        let mut columns = columns_of(&one, &left);
        columns.extend(columns_of(&other, &right));
        for name in [&left, &right] {
            columns.push(Column {
                name: format!("{name}.window_end"),
                kind: Kind::Time,
            });
        }
        let relation = Relation {
            sql,
            columns,
            unique: Vec::new(),
        };
        let filter = self.filter(&relation, 0);
        self.projected(&relation, &filter)
    }

    /// The first rows, or groups, of each window.
    fn first_of_windows(&mut self) -> Question {
        let (outer, many) = (self.name(), 1 + self.pick(3));
        let way = self.one_of(&["", " DESC", " DESC NULLS LAST"]);
        let (sql, columns) = if self.chance.percent(50) {
            let relation = self.windows("TABLE a", &columns_of("a", ""), "at");
            let name = relation.name();
            let by = self.any(&relation.columns, 0).0;
            let filter = self.filter(&relation, 0);
            let sql = format!(
                "SELECT {name}.*, row_number() OVER (PARTITION BY {name}.window_start, {name}.window_end ORDER BY {by}{way}, {name}.id) AS rn FROM {}{filter}",
                relation.sql
            );
            (sql, columns_of("a", ""))
        } else {
            let groups = self.windows("TABLE a", &columns_of("a", ""), "at");
            let (inner, name) = (self.name(), groups.name());
            let aggregate = self.aggregate(Kind::Whole, &groups.columns);
            let sql = format!(
                "SELECT {inner}.*, row_number() OVER (PARTITION BY {inner}.window_start, {inner}.window_end ORDER BY {inner}.n{way}, {inner}.k) AS rn FROM (SELECT {name}.window_start, {name}.window_end, {name}.k, {aggregate} AS n FROM {} GROUP BY {name}.window_start, {name}.window_end, {name}.k) AS {inner}",
                groups.sql
            );
            let columns = ["k", "n"].map(|column| Column {
                name: column.to_owned(),
                kind: Kind::Whole,
            });
            (sql, columns.to_vec())
        };
        let mut columns = within(&outer, &columns);
        columns.push(Column {
            name: format!("{outer}.window_end"),
            kind: Kind::Time,
        });
        let ranked = Relation {
            sql: format!("({sql}) AS {outer}"),
            columns,
            unique: Vec::new(),
        };
        self.projected(&ranked, &format!(" WHERE {outer}.rn <= {many}"))
    }

    /// Groups of sessions.
    pub(super) fn sessions(&mut self) -> Question {
        let name = self.name();
        let key = self.one_of(&["k", "s", "(k, s)"]);
        let minutes = 2 + self.pick(12);
        let relation = Relation {
            sql: format!(
                "SESSION(TABLE a PARTITION BY {key}, DESCRIPTOR(at), INTERVAL '{minutes} minutes') AS {name}"
            ),
            columns: columns_of("a", &name),
            unique: Vec::new(),
        };
        let mut keys = vec![
            (format!("{name}.window_start"), Kind::Time),
            (format!("{name}.window_end"), Kind::Time),
        ];
        let mut rest = format!(" GROUP BY {name}.window_start, {name}.window_end");
        for key in key.trim_matches(['(', ')']).split(", ") {
            let _ = write!(rest, ", {name}.{key}");
            let kind = if key == "k" { Kind::Whole } else { Kind::Text };
            keys.push((format!("{name}.{key}"), kind));
        }
        if self.chance.percent(15) {
            let aggregate = self.aggregate(Kind::Whole, &relation.columns);
            let _ = write!(rest, " HAVING {aggregate} > 1");
        }
        let filter = self.filter(&relation, 0);
        self.aggregated(&relation, keys, &format!("{filter}{rest}"))
    }
}
