//! One line for each measurement: name, value, floor, ratio, target, and whether it is met.

use std::fmt;

/// Prints the lines.
pub(crate) struct Report {
    /// Whether the long measurements run whole.
    pub(crate) full: bool,
    headed: bool,
}

/// What a figure counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    PerSecond,
    PerCpuSecond,
    Microseconds,
    Milliseconds,
    Seconds,
    Bytes,
    Number,
}

/// What a measurement is held against.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// The ratio to the floor is no less.
    RatioAtLeast(f64),
    /// The ratio to the floor is no more.
    RatioAtMost(f64),
    /// The value itself is no more.
    AtMost(f64),
    /// It is only told.
    None,
}

impl Report {
    pub(crate) fn new(full: bool) -> Self {
        Self {
            full,
            headed: false,
        }
    }

    /// A measurement beside its floor, taken in turns: medians of both, and of the ratios within a turn.
    pub(crate) fn compare(&mut self, name: &str, unit: Unit, turns: &[(f64, f64)], target: Target) {
        let value = median(turns.iter().map(|turn| turn.0));
        let floor = median(turns.iter().map(|turn| turn.1));
        let ratio = median(turns.iter().map(|turn| turn.0 / turn.1));
        let (met, wanted) = match target {
            Target::RatioAtLeast(least) => (ratio >= least, format!(">= {least}")),
            Target::RatioAtMost(most) => (ratio <= most, format!("<= {most}")),
            Target::AtMost(most) => (value <= most, format!("<= {}", Figure(most, unit))),
            Target::None => (true, "-".into()),
        };
        self.print(
            name,
            &Figure(value, unit).to_string(),
            &Figure(floor, unit).to_string(),
            &format!("{ratio:.2}"),
            &wanted,
            met,
        );
    }

    /// A measurement that has no floor.
    pub(crate) fn tell(&mut self, name: &str, unit: Unit, value: f64, target: Target) {
        let (met, wanted) = match target {
            Target::AtMost(most) => (value <= most, format!("<= {}", Figure(most, unit))),
            Target::RatioAtLeast(_) | Target::RatioAtMost(_) | Target::None => (true, "-".into()),
        };
        self.print(
            name,
            &Figure(value, unit).to_string(),
            "-",
            "-",
            &wanted,
            met,
        );
    }

    fn print(
        &mut self,
        name: &str,
        value: &str,
        floor: &str,
        ratio: &str,
        target: &str,
        met: bool,
    ) {
        if !self.headed {
            self.headed = true;
            line("name", "value", "floor", "ratio", "target", "");
        }
        line(
            name,
            value,
            floor,
            ratio,
            target,
            if met { "ok" } else { "MISSED" },
        );
    }
}

#[expect(clippy::print_stdout, reason = "the lines are what a bench is for")]
fn line(name: &str, value: &str, floor: &str, ratio: &str, target: &str, verdict: &str) {
    println!("{name:<44} {value:>14} {floor:>14} {ratio:>7} {target:>12}  {verdict}");
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Figure(f64, Unit);

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, unit) = *self;
        match unit {
            Unit::PerSecond => write!(out, "{}/s", Thousands(value)),
            Unit::PerCpuSecond => write!(out, "{}/cpu-s", Thousands(value)),
            Unit::Microseconds => write!(out, "{value:.1} us"),
            Unit::Milliseconds => write!(out, "{value:.2} ms"),
            Unit::Seconds => write!(out, "{value:.2} s"),
            Unit::Bytes if value.abs() >= 1024.0 * 1024.0 => {
                write!(out, "{:.1} MB", value / 1024.0 / 1024.0)
            }
            Unit::Bytes => write!(out, "{:.1} KB", value / 1024.0),
            Unit::Number => write!(out, "{}", Thousands(value)),
        }
    }
}

/// A whole number with commas.
struct Thousands(f64);

impl fmt::Display for Thousands {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:.0}", self.0);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index) % 3 == 0 {
                write!(out, ",")?;
            }
            write!(out, "{digit}")?;
        }
        Ok(())
    }
}
