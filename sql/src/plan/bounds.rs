//! Which columns of a relation move on with time, and what that says of state: when it can be forgotten.
//!
//! A column of times ([`Time`]) comes with a horizon: no row to come, and none that comes to be taken back,
//! has an earlier time there, rows that are late left aside. It starts at a topic's watermark column and
//! at `_stored_at`, and is followed through what passes it on. Where a join compares two such columns
//! within constant distances, each side's rows end when the other side has come far enough.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable as _, Operator as Sign};

use crate::operator::moment::{Ending, Horizon};

/// A column whose times move on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) column: usize,
    pub(crate) horizon: Horizon,
    /// Whether late rows were left out already.
    pub(crate) is_strict: bool,
    /// Whether an outer join leaves it NULL in rows that met nothing.
    pub(crate) is_padded: bool,
}

/// The time that an expression over such columns computes: itself, the start of its stretch, or so much before or after it.
pub(crate) fn time_of(expr: &Expr, input: &DFSchema, times: &[Time]) -> Option<Time> {
    match expr {
        Expr::Alias(alias) => time_of(&alias.expr, input, times),
        Expr::Cast(cast) => {
            let time = time_of(&cast.expr, input, times)?;
            match shift_of(cast, input)? {
                Shift::None => Some(time),
                // How far it is moved depends on the zone and on the time of the year, so it may be as far as any.
                Shift::Zone => Some(Time {
                    horizon: time.horizon.lagging(ZONE_MAX_MS),
                    ..time
                }),
            }
        }
        Expr::Column(column) => {
            let at = input.index_of_column(column).ok()?;
            times.iter().find(|time| time.column == at).cloned()
        }
        Expr::ScalarFunction(function) => {
            let (length_ms, of) = match (function.func.name(), function.args.as_slice()) {
                ("date_bin", [length, of]) => (interval_ms(length)?, of),
                ("date_trunc", [unit, of]) => (unit_ms(unit)?, of),
                _ => return None,
            };
            let time = time_of(of, input, times)?;
            // Where clocks are set back a stretch of the calendar is longer.
            let is_local = matches!(of.get_type(input).ok()?, DataType::Timestamp(_, Some(_)));
            let longer_ms = if is_local { HOUR_MS } else { 0 };
            Some(Time {
                horizon: time.horizon.lagging(length_ms.saturating_add(longer_ms)),
                ..time
            })
        }
        Expr::BinaryExpr(binary) => {
            let (of, by_ms) = moved_by(binary)?;
            let time = time_of(of, input, times)?;
            Some(Time {
                horizon: time.horizon.lagging(by_ms.checked_neg()?),
                ..time
            })
        }
        _ => None,
    }
}

/// What a constant interval is added to or taken from, and how far that moves it.
fn moved_by(binary: &BinaryExpr) -> Option<(&Expr, i64)> {
    match binary.op {
        Sign::Plus => match interval_ms(&binary.right) {
            Some(ms) => Some((&binary.left, ms)),
            None => Some((&binary.right, interval_ms(&binary.left)?)),
        },
        Sign::Minus => Some((&binary.left, interval_ms(&binary.right)?.checked_neg()?)),
        _ => None,
    }
}

/// What an expression is the last moment of, if it is that of the stretch that ends there: `window_time` of `window_end`.
pub(crate) fn end_of_last_moment(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Alias(alias) => end_of_last_moment(&alias.expr),
        Expr::BinaryExpr(binary) => match moved_by(binary)? {
            (end, -1) => Some(end),
            _ => None,
        },
        _ => None,
    }
}

const HOUR_MS: i64 = 3_600_000;

/// How far a clock has ever been from that of UTC, and a little more.
const ZONE_MAX_MS: i64 = 16 * HOUR_MS;

/// What a cast does to a time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    /// It is the same number of them.
    None,
    /// What a clock shows becomes a moment, or the other way round.
    Zone,
}

/// What a cast between times does; `None` if it is no such cast, or cuts off milliseconds.
fn shift_of(cast: &Cast, input: &DFSchema) -> Option<Shift> {
    let DataType::Timestamp(unit, zone) = cast.field.data_type() else {
        return None;
    };
    let DataType::Timestamp(_, before) = cast.expr.get_type(input).ok()? else {
        return None;
    };
    match zone.is_some() == before.is_some() {
        _ if *unit == TimeUnit::Second => None,
        true => Some(Shift::None),
        false => Some(Shift::Zone),
    }
}

/// A constant interval of fixed length, in milliseconds, rounded up.
pub(crate) fn interval_ms(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    match value {
        ScalarValue::IntervalMonthDayNano(Some(length)) if length.months == 0 => {
            let days_ms = i64::from(length.days).checked_mul(86_400_000)?;
            if length.nanoseconds % 1_000_000 != 0 {
                return None;
            }
            days_ms.checked_add(length.nanoseconds / 1_000_000)
        }
        ScalarValue::IntervalDayTime(Some(length)) => {
            let days_ms = i64::from(length.days).checked_mul(86_400_000)?;
            days_ms.checked_add(i64::from(length.milliseconds))
        }
        _ => None,
    }
}

/// How long the stretches of `date_trunc` are, if they all are the same.
fn unit_ms(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    let unit = value.try_as_str()??.to_lowercase();
    Some(match unit.as_str() {
        "millisecond" => 1,
        "second" => 1000,
        "minute" => 60_000,
        "hour" => 3_600_000,
        "day" => 86_400_000,
        "week" => 604_800_000,
        _ => return None,
    })
}

/// How far apart the times of a pair may lie: left less right, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distance {
    least: Option<i64>,
    most: Option<i64>,
}

impl Distance {
    fn at_least(&mut self, ms: i64) {
        self.least = Some(self.least.map_or(ms, |least| least.max(ms)));
    }

    fn at_most(&mut self, ms: i64) {
        self.most = Some(self.most.map_or(ms, |most| most.min(ms)));
    }
}

/// A column and a constant added to it.
type Shifted = (usize, i64);

fn shifted(expr: &Expr, both: &DFSchema) -> Option<Shifted> {
    match expr {
        Expr::Alias(alias) => shifted(&alias.expr, both),
        Expr::Cast(cast) if shift_of(cast, both)? == Shift::None => shifted(&cast.expr, both),
        Expr::Column(column) => Some((both.index_of_column(column).ok()?, 0)),
        Expr::BinaryExpr(binary) => {
            let (of, by_ms) = moved_by(binary)?;
            let (column, ms) = shifted(of, both)?;
            Some((column, ms.checked_add(by_ms)?))
        }
        _ => None,
    }
}

/// What a join's condition says of the distance between a column of its left and one of its right.
pub(crate) fn distance(
    filter: Option<&Expr>,
    equal: &[(usize, usize)],
    both: &DFSchema,
    left: usize,
    right: usize,
) -> Distance {
    let mut distance = Distance::default();
    if equal.contains(&(left, right)) {
        distance.at_least(0);
        distance.at_most(0);
    }
    let mut compare = |a: Option<Shifted>, sign: Sign, b: Option<Shifted>| {
        let (Some(a), Some(b)) = (a, b) else { return };
        // left + x ? right + y  is  left - right ? y - x.
        let (sign, ms) = if a.0 == left && b.0 == right {
            (Some(sign), b.1.checked_sub(a.1))
        } else if b.0 == left && a.0 == right {
            (sign.swap(), a.1.checked_sub(b.1))
        } else {
            return;
        };
        let (Some(sign), Some(ms)) = (sign, ms) else {
            return;
        };
        match sign {
            Sign::Lt | Sign::LtEq => distance.at_most(ms),
            Sign::Gt | Sign::GtEq => distance.at_least(ms),
            Sign::Eq => {
                distance.at_most(ms);
                distance.at_least(ms);
            }
            _ => {}
        }
    };
    for condition in filter.into_iter().flat_map(split_conjunction) {
        match condition {
            Expr::BinaryExpr(binary) => compare(
                shifted(&binary.left, both),
                binary.op,
                shifted(&binary.right, both),
            ),
            Expr::Between(between) if !between.negated => {
                let of = shifted(&between.expr, both);
                compare(of, Sign::GtEq, shifted(&between.low, both));
                compare(of, Sign::LtEq, shifted(&between.high, both));
            }
            _ => {}
        }
    }
    distance
}

/// What a bounded join knows: when its rows end, and how its output's times move on.
pub(crate) struct Bounded {
    pub(crate) endings: [Ending; 2],
    /// Columns of the left and of the right, in the places that they have there.
    pub(crate) times: [Vec<Time>; 2],
}

/// The end of a join's rows by the first pair of time columns that it compares; all such columns move on.
///
/// `changes` says of each side whether its rows may be taken back: those stay until no row of their own time
/// comes any more, so that they are still there when they are.
pub(crate) fn bounded(
    times: [&[Time]; 2],
    changes: [bool; 2],
    lateness_ms: i64,
    distance: impl Fn(usize, usize) -> Distance,
) -> Option<Bounded> {
    let pairs = times[0]
        .iter()
        .flat_map(|left| times[1].iter().map(move |right| (left, right)));
    let mut found: Vec<(&Time, &Time, Distance)> = pairs
        .map(|(left, right)| (left, right, distance(left.column, right.column)))
        .filter(|(_, _, distance)| distance.least.is_some() || distance.most.is_some())
        .collect();
    // A pair that bounds both sides comes before one that bounds one.
    found.sort_by_key(|(_, _, distance)| distance.least.is_none() || distance.most.is_none());
    let first = Pair::of(found.first()?, lateness_ms);
    let mut moving: [Vec<Time>; 2] = [Vec::new(), Vec::new()];
    for pair in &found {
        let pair = Pair::of(pair, lateness_ms);
        for (side, moving) in moving.iter_mut().enumerate() {
            let known = moving.iter().any(|time| time.column == pair.columns[side]);
            if let Some(end) = pair.ends[side].as_ref().filter(|_| !known) {
                moving.push(Time {
                    column: pair.columns[side],
                    horizon: pair.late[side].and(end),
                    is_strict: true,
                    is_padded: false,
                });
            }
        }
    }
    let ending = |side: usize| Ending::Time {
        column: first.columns[side],
        horizon: first.ends[side].as_ref().map(|end| match changes[side] {
            true => end.and(&first.late[side]),
            false => end.clone(),
        }),
        late: first.late[side].clone(),
    };
    Some(Bounded {
        endings: [ending(0), ending(1)],
        times: moving,
    })
}

/// A time column of each side that a join compares.
struct Pair {
    columns: [usize; 2],
    /// Rows of each side that come before are late.
    late: [Horizon; 2],
    /// Rows of each side from before meet no row to come any more, if that is ever known.
    ends: [Option<Horizon>; 2],
}

impl Pair {
    fn of((left, right, distance): &(&Time, &Time, Distance), lateness_ms: i64) -> Self {
        let late = [left, right].map(|time| match time.is_strict {
            true => time.horizon.clone(),
            false => time.horizon.lagging(lateness_ms),
        });
        // A left row meets right rows up to its time less `least`; a right row left ones up to its time and
        // `most`.
        let left_ends = distance.least.map(|least| late[1].lagging(-least));
        let right_ends = distance.most.map(|most| late[0].lagging(most));
        Self {
            columns: [left.column, right.column],
            late,
            ends: [left_ends, right_ends],
        }
    }
}
