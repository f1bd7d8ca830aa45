//! Questions in which time decides what meets: rows near each other, what counted at a time, aggregates over rows before.

use super::grammar::{Asker, Kind, Question};
use super::relations::{Column, Relation, columns_of};

impl Asker<'_> {
    /// Rows of two topics whose times are near each other; with the time of the left, and without the last rows, if it `closes`.
    pub(super) fn near(&mut self, closes: bool) -> Question {
        let (one, other) = (self.one_of(&["a", "a", "p"]), self.one_of(&["a", "p", "p"]));
        let (left, right) = (self.table_of(&one), self.table_of(&other));
        let (l, r) = (left.name(), right.name());
        let ways = ["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let way = self.one_of(if closes { &ways[1..3] } else { &ways });
        let (before, after) = (3 * self.pick(5), 3 * self.pick(5));
        let near = match self.pick(3) {
            0 => format!(
                "{r}.at BETWEEN {l}.at - INTERVAL '{before} minutes' AND {l}.at + INTERVAL '{after} minutes'"
            ),
            1 => format!("{r}.at >= {l}.at AND {r}.at < {l}.at + INTERVAL '{after} minutes'"),
            _ => format!(
                "{l}.at > {r}.at - INTERVAL '{before} minutes' AND {l}.at <= {r}.at + INTERVAL '{after} minutes'"
            ),
        };
        let key = self.one_of(&["k", "s", "x"]);
        let mut sql = format!(
            "{} {way} {} ON {l}.{key} = {r}.{key} AND {near}",
            left.sql, right.sql
        );
        let columns: Vec<Column> = left.columns.into_iter().chain(right.columns).collect();
        if self.chance.percent(25) {
            let more = self.expression(Kind::Flag, &columns, 1);
            sql.push_str(&format!(" AND {more}"));
        }
        let relation = Relation {
            sql,
            columns,
            unique: Vec::new(),
        };
        if closes {
            let filter = format!("{} AND {l}.at IS NOT NULL", self.earlier(&relation, true));
            let mut question = self.projected(&relation, &filter);
            question.kinds.push(Kind::Time);
            let time = format!("SELECT {l}.at AS c{}, ", question.kinds.len());
            question.sql = question.sql.replacen("SELECT ", &time, 1);
            return question;
        }
        let filter = self.filter(&relation, 0);
        if self.chance.percent(25) {
            let (key, kind) = self.any(&relation.columns, 0);
            let rest = format!("{filter} GROUP BY {key}");
            return self.aggregated(&relation, vec![(key, kind)], &rest);
        }
        self.projected(&relation, &filter)
    }

    /// Rows with what counted at their times.
    pub(super) fn counted(&mut self) -> Question {
        let left = self.table_of("a");
        let (l, r) = (left.name(), self.name());
        let key = self.one_of(&["k", "k", "x"]);
        let (sql, topic) = match self.pick(4) {
            0 | 1 => {
                let way = self.one_of(&["JOIN", "LEFT JOIN"]);
                let sql = format!(
                    "{} {way} d FOR SYSTEM_TIME AS OF {l}.at AS {r} ON {l}.{key} = {r}.id",
                    left.sql
                );
                (sql, "d")
            }
            _ => {
                let how = self.one_of(&[">=", ">"]);
                let sql = format!(
                    "{} ASOF JOIN p AS {r} MATCH_CONDITION ({l}.at {how} {r}.at) ON {l}.{key} = {r}.{key}",
                    left.sql
                );
                (sql, "p")
            }
        };
        let columns = left.columns.into_iter().chain(columns_of(topic, &r));
        let relation = Relation {
            sql,
            columns: columns.collect(),
            unique: Vec::new(),
        };
        let filter = self.earlier(&relation, true);
        self.projected(&relation, &filter)
    }

    /// Aggregates over rows before, by time.
    pub(super) fn over(&mut self) -> Question {
        let range = self.chance.percent(50);
        // Rows of equal times have no order among each other that both ways know.
        let relation = self.table_of(if range { "a" } else { "p" });
        let name = relation.name();
        let frames = if range {
            [
                "",
                " RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW",
                " RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            ]
        } else {
            [
                "",
                " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
                " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
            ]
        };
        let part = self.one_of(&["k", "s", "x"]);
        let mut items = vec![format!("{name}.id AS c1")];
        let mut kinds = vec![Kind::Whole];
        for at in 2..3 + self.pick(3) {
            let frame = self.one_of(&frames);
            let call = match self.pick(5) {
                0 => "count(*)".to_owned(),
                1 => format!("min({})", self.column(Kind::Whole, &relation.columns)),
                2 => format!("max({})", self.column(Kind::Whole, &relation.columns)),
                3 => format!("count({})", self.column(Kind::Text, &relation.columns)),
                _ => format!("sum({})", self.column(Kind::Whole, &relation.columns)),
            };
            let partition = match self.chance.below(4) {
                0 => String::new(),
                _ => format!("PARTITION BY {name}.{part} "),
            };
            items.push(format!(
                "{call} OVER ({partition}ORDER BY {name}.at{frame}) AS c{at}"
            ));
            kinds.push(Kind::Whole);
        }
        // A row without a time is never final.
        let filter = format!(
            "{} AND {name}.at IS NOT NULL",
            self.earlier(&relation, true)
        );
        Question {
            sql: format!("SELECT {} FROM {}{filter}", items.join(", "), relation.sql),
            kinds,
        }
    }
}
