//! Axes of charts: from figures to places, with ticks at round numbers.

/// An axis of a given length in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    length: f64,
}

impl Axis {
    /// From zero to a little more than `most`.
    pub(super) fn linear(most: f64, length: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        Self { from: 0.0, to: most * 1.05, logarithmic: false, length }
    }

    /// Whole powers of ten around what lies between `least` and `most`.
    pub(super) fn logarithmic(least: f64, most: f64, length: f64) -> Self {
        let from = least.max(1e-3).log10().floor();
        let to = most.max(1e-3).log10().ceil().max(from + 1.0);
        Self { from: 10_f64.powf(from), to: 10_f64.powf(to), logarithmic: true, length }
    }

    /// The distance of a figure from the beginning, in pixels; the end for figures beyond it.
    pub(super) fn place(self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            value / self.to
        };
        part.clamp(0.0, 1.0) * self.length
    }

    /// Whether a figure lies beyond the end.
    pub(super) fn exceeded(self, value: f64) -> bool {
        value > self.to
    }

    /// The figure by whose size the unit of the axis is chosen.
    pub(super) fn typical(self) -> f64 {
        if self.logarithmic { (self.from * self.to).sqrt().max(1e4) } else { self.to }
    }

    /// Figures at which ticks stand.
    pub(super) fn ticks(self) -> Vec<f64> {
        if self.logarithmic {
            let ticks = std::iter::successors(Some(self.from), |tick| Some(tick * 10.0));
            return ticks.take_while(|tick| *tick <= self.to * 1.001).collect();
        }
        let rough = self.to / 2.5;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
        let step = steps.into_iter().rfind(|step| *step <= rough).unwrap_or(power);
        (0_u32..)
            .map(|number| f64::from(number) * step)
            .take_while(|tick| *tick <= self.to)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn ticks_of_a_linear_axis_are_round_and_within_it() {
        assert_eq!(Axis::linear(8.0, 100.0).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(Axis::linear(3.5, 100.0).ticks(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(Axis::linear(0.0, 100.0).ticks().first(), Some(&0.0));
    }

    #[test]
    fn a_logarithmic_axis_begins_and_ends_at_powers_of_ten() {
        let axis = Axis::logarithmic(130.0, 24_000.0, 300.0);
        let ticks: Vec<u64> = axis.ticks().iter().map(|tick| tick.round() as u64).collect();
        assert_eq!(ticks, [100, 1000, 10_000, 100_000]);
        assert!((axis.place(1000.0) - 100.0).abs() < 1e-6);
    }

    #[test]
    fn figures_beyond_the_end_stop_there() {
        let axis = Axis::linear(10.0, 100.0);
        assert!(axis.exceeded(11.0) && !axis.exceeded(10.0));
        assert!((axis.place(1e9) - 100.0).abs() < 1e-9);
    }
}
