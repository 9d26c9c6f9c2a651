//! Numbers as the page shows them: three significant digits, a unit that suits the whole row.

/// A unit with the factor that brings a figure to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    factor: f64,
}

/// The kinds of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages per second.
    Rate,
    /// Microseconds.
    Time,
    /// Bytes.
    Memory,
    /// Seconds.
    Seconds,
    /// A part of one, shown in percent.
    Share,
    /// A quotient of two figures.
    Ratio,
}

impl Kind {
    /// The kind of a figure by the end of its name, which carries the unit.
    pub(super) fn of(figure: &str) -> Self {
        match figure {
            "messages_per_s" => Self::Rate,
            "bytes_per_connection" => Self::Memory,
            "cpu_s_per_million" | "connect_s" => Self::Seconds,
            _ if figure.ends_with("_us") => Self::Time,
            _ if figure.ends_with("_share") || figure == "delivered_of_due" => Self::Share,
            _ => Self::Ratio,
        }
    }

    /// The unit in which a figure of this size reads well.
    pub(super) fn unit(self, largest: f64) -> Unit {
        let unit = |name, factor| Unit { name, factor };
        match self {
            Self::Rate if largest >= 1e6 => unit("M msg/s", 1e-6),
            Self::Rate => unit("k msg/s", 1e-3),
            Self::Time if largest >= 1e6 => unit("s", 1e-6),
            Self::Time if largest >= 1e4 => unit("ms", 1e-3),
            Self::Time => unit("us", 1.0),
            Self::Memory => unit("KiB", 1.0 / 1024.0),
            Self::Seconds => unit("s", 1.0),
            Self::Share => unit("%", 100.0),
            Self::Ratio => unit("", 1.0),
        }
    }

    /// A figure with a unit of its own.
    pub(super) fn show(self, value: f64) -> String {
        let unit = self.unit(value);
        format!("{} {}", unit.number(value), unit.name).trim_end().to_owned()
    }
}

impl Unit {
    /// A figure without the name of the unit.
    pub(super) fn number(self, value: f64) -> String {
        digits(value * self.factor)
    }
}

/// Three significant digits; whole numbers are not cut.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_fitting_unit() {
        assert_eq!(Kind::Rate.show(8_123_456.0), "8.12 M msg/s");
        assert_eq!(Kind::Rate.show(93_700.0), "93.7 k msg/s");
        assert_eq!(Kind::Time.show(9.871), "9.87 us");
        assert_eq!(Kind::Time.show(24_400.0), "24.4 ms");
        assert_eq!(Kind::Memory.show(3072.0), "3.00 KiB");
        assert_eq!(Kind::Share.show(0.005), "0.50 %");
        assert_eq!(Kind::Ratio.show(0.44), "0.44");
    }

    #[test]
    fn a_figure_s_name_tells_its_kind() {
        assert_eq!(Kind::of("p99_us"), Kind::Time);
        assert_eq!(Kind::of("listener_cpu_share"), Kind::Share);
        assert_eq!(Kind::of("slowest_of_mean"), Kind::Ratio);
    }
}
