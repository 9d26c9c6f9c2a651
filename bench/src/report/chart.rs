//! Charts: one file per group, a panel per case, a bar per library, written by hand as SVG. They bring their own
//! background, so that they can be read on light and dark pages.

use std::fmt::Write;

use super::axis::Axis;
use super::number::{Kind, Unit};
use crate::compare::{Archive, GROUPS, Measure, Row, Spread};

/// Of a panel, and of everything in it.
const PANEL_WIDTH: f64 = 400.0;
/// Where bars begin.
const BARS_X: f64 = 150.0;
/// Longest bar.
const BARS_WIDTH: f64 = 150.0;
const BAR_HEIGHT: f64 = 12.0;
const ROW_HEIGHT: f64 = 18.0;
const TITLE_HEIGHT: f64 = 34.0;
const AXIS_HEIGHT: f64 = 40.0;
const HEAD_HEIGHT: f64 = 46.0;

const STYLE: &str = "<style>text{font:12px sans-serif;fill:#1f2328}.t{font-weight:bold}.h{font:bold 15px sans-serif}\
.a{font-size:11px;fill:#59636e}.bg{fill:#ffffff}.g{stroke:#d1d9e0}.b{fill:#9aa4ae}.c{fill:#d3d9df}.p{fill:#0969da}\
.q{fill:#a8cdf7}.s{stroke:#1f2328;stroke-width:1.2}.o{fill:#1f2328;font-weight:bold}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{fill:#9198a1}.bg{fill:#0d1117}.g{stroke:#3d444d}\
.b{fill:#7d8590}.c{fill:#3d444d}.p{fill:#4493f8}.q{fill:#1c4a80}.s{stroke:#e6edf3}.o{fill:#e6edf3}}</style>";

/// Name and content of each chart.
pub(super) fn all(archive: &Archive) -> Vec<(String, String)> {
    let charts = GROUPS.iter().filter_map(|group| {
        let panels: Vec<Panel> =
            archive.rows(group).into_iter().filter_map(|row| Panel::new(archive, row)).collect();
        (!panels.is_empty()).then(|| (format!("{group}.svg"), chart(group, &panels)))
    });
    charts.collect()
}

/// What the bars of a group show.
fn heading(group: &str) -> &'static str {
    match group {
        "throughput" => "PUSH to PULL over tcp: messages per second by size (more is better)",
        "roundtrip" => "DEALER-ROUTER round trip, 64 B: p50 and p99 (less is better)",
        "ipc" => "ipc, 64 B: messages per second; round trip, p50 and p99",
        "inproc" => "inproc, 64 B: messages per second; round trip, p50 and p99",
        "fanout" => "PUB to 1, 8, 32 SUBs: messages per second, all SUBs together (more is better)",
        "router" => "ROUTER with 1,000 DEALERs, 64 B echo: messages per second (more is better)",
        "memory" => "Idle connections: memory of each (less is better)",
        "openloop" => "Open loop, 64 B: time from the scheduled send, p50 and p99 (less is better)",
        "log" => "The log: records per second; times, p50 and p99; memory of a partition",
        _ => "",
    }
}

struct Bar {
    library: String,
    spread: Spread,
    /// The 99th percentile, where the main figure is a time.
    p99: Option<f64>,
    /// Whether messages were still due when the time was over.
    saturated: bool,
}

struct Panel {
    row: Row,
    bars: Vec<Bar>,
}

impl Panel {
    fn new(archive: &Archive, row: Row) -> Option<Self> {
        let bar = |library: &str| {
            let run = archive.latest(&row, &[library])?;
            let median = |figure| run.median(&row, library, figure);
            Some(Bar {
                library: library.to_owned(),
                spread: run.spread(&row, library, row.measure.figure())?,
                p99: median("p99_us").filter(|_| row.measure == Measure::Time),
                saturated: median("delivered_of_due").is_some_and(|part| part < 0.99),
            })
        };
        let bars: Vec<Bar> =
            archive.libraries().into_iter().filter_map(|(name, _)| bar(name)).collect();
        (bars.len() > 1).then_some(Self { row, bars })
    }

    fn height(&self) -> f64 {
        TITLE_HEIGHT + ROW_HEIGHT * self.bars.len() as f64 + AXIS_HEIGHT
    }

    /// The floor may lie far away, and so may some 99th percentiles: bars that would flatten all others are cut.
    fn axis(&self) -> Axis {
        let most = |of: &dyn Fn(&Bar) -> f64| {
            self.bars.iter().filter(|bar| bar.library != "floor").map(of).fold(0.0, f64::max)
        };
        let (median, p99) = (most(&|bar| bar.spread.median), most(&|bar| bar.p99.unwrap_or(0.0)));
        if self.row.group == "openloop" {
            let least = self.bars.iter().map(|bar| bar.spread.median).fold(f64::MAX, f64::min);
            return Axis::logarithmic(least, p99.max(median), BARS_WIDTH);
        }
        Axis::linear(median.max(p99.min(2.5 * median)), BARS_WIDTH)
    }

    /// Draws the panel with its corner at (x, y).
    fn draw(&self, out: &mut String, x: f64, y: f64) {
        let (axis, kind) = (self.axis(), Kind::of(self.row.measure.figure()));
        let unit = kind.unit(axis.typical());
        let bottom = y + self.height() - AXIS_HEIGHT;
        let _ = writeln!(
            out,
            "<text class=\"t\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            x + 12.0,
            y + 18.0,
            escape(&self.row.case)
        );
        let _ = writeln!(
            out,
            "<text class=\"a\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            x + 12.0,
            y + 31.0,
            escape(&self.row.placement)
        );
        draw_axis(out, axis, unit, x + BARS_X, y + TITLE_HEIGHT + 2.0, bottom);
        for (number, bar) in self.bars.iter().enumerate() {
            bar.draw(out, axis, kind, x, y + TITLE_HEIGHT + 4.0 + ROW_HEIGHT * number as f64);
        }
    }
}

/// Lines at the ticks with their numbers, and the unit below.
fn draw_axis(out: &mut String, axis: Axis, unit: Unit, x: f64, top: f64, bottom: f64) {
    for tick in axis.ticks() {
        let place = x + axis.place(tick);
        let label = unit.number(tick);
        let label = if label.contains('.') {
            label.trim_end_matches('0').trim_end_matches('.')
        } else {
            &label
        };
        let _ = writeln!(
            out,
            "<line class=\"g\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{top:.0}\" y2=\"{bottom:.0}\"/>\
             <text class=\"a\" x=\"{place:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            bottom + 13.0,
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"a\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
        x + BARS_WIDTH / 2.0,
        bottom + 27.0,
        escape(unit.name),
    );
}

impl Bar {
    fn draw(&self, out: &mut String, axis: Axis, kind: Kind, x: f64, y: f64) {
        let ours = self.library == "peermq";
        let (solid, pale) = if ours { ("p", "q") } else { ("b", "c") };
        let text_y = y + BAR_HEIGHT - 2.0;
        let class = if ours { " class=\"o\"" } else { "" };
        let _ = write!(
            out,
            "<text{class} x=\"{:.0}\" y=\"{text_y:.1}\" text-anchor=\"end\">{}</text>",
            x + BARS_X - 6.0,
            escape(&self.library),
        );
        let x = x + BARS_X;
        let mut rectangle = |class: &str, value: f64| {
            let width = axis.place(value);
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>"
            );
        };
        if let Some(p99) = self.p99 {
            rectangle(pale, p99);
        }
        rectangle(solid, self.spread.median);
        let most = self.p99.unwrap_or(0.0).max(self.spread.median);
        if axis.exceeded(most) {
            cut(out, x + BARS_WIDTH, y);
        }
        let (from, to) = (x + axis.place(self.spread.min), x + axis.place(self.spread.max));
        let line_y = y + BAR_HEIGHT / 2.0;
        let _ = writeln!(
            out,
            "<line class=\"s\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{line_y:.1}\" y2=\"{line_y:.1}\"/>\
             <text class=\"a\" x=\"{:.1}\" y=\"{text_y:.1}\">{}</text>",
            (x + axis.place(most)).max(to) + 6.0,
            escape(&self.label(kind)),
        );
    }

    fn label(&self, kind: Kind) -> String {
        let behind = if self.saturated { " late" } else { "" };
        match self.p99 {
            None => kind.show(self.spread.median),
            Some(p99) => {
                let unit = kind.unit(p99);
                let median = unit.number(self.spread.median);
                format!("{median} / {} {}{behind}", unit.number(p99), unit.name)
            }
        }
    }
}

/// Two gaps near the end of a bar that goes on beyond the axis.
fn cut(out: &mut String, end: f64, y: f64) {
    for offset in [12.0, 7.0] {
        let x = end - offset;
        let _ = write!(
            out,
            "<path class=\"bg\" d=\"M{:.1} {:.1}l3 0l-3 {BAR_HEIGHT}l-3 0z\"/>",
            x + 3.0,
            y
        );
    }
}

/// Panels in two columns below a heading.
fn chart(group: &str, panels: &[Panel]) -> String {
    let mut body = String::new();
    let mut y = HEAD_HEIGHT;
    for pair in panels.chunks(2) {
        for (column, panel) in pair.iter().enumerate() {
            panel.draw(&mut body, PANEL_WIDTH * column as f64, y);
        }
        y += pair.iter().map(Panel::height).fold(0.0, f64::max);
    }
    let width = PANEL_WIDTH * panels.len().min(2) as f64;
    let width = width.max(620.0);
    let (heading, y) = (heading(group), y + 8.0);
    let times = panels.iter().any(|panel| panel.row.measure == Measure::Time);
    let legend = if times {
        "bars: p50, pale to p99 (medians of rounds); line: least to most p50; a broken bar goes on beyond the axis"
    } else {
        "bars: medians of rounds; line: least to most; a broken bar goes on beyond the axis"
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{y:.0}\" \
         viewBox=\"0 0 {width:.0} {y:.0}\" role=\"img\" aria-label=\"{}\">\n{STYLE}\n\
         <rect class=\"bg\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"h\" x=\"12\" y=\"20\">{}</text>\n<text class=\"a\" x=\"12\" y=\"36\">{legend}</text>\n{body}</svg>\n",
        escape(heading),
        escape(heading),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::run;

    fn drawn() -> String {
        let rates = [("peermq", 8e6), ("libzmq", 2e6), ("floor", 90e6)];
        let archive = Archive { runs: vec![run(1, &rates)] };
        all(&archive).remove(0).1
    }

    #[test]
    fn a_chart_has_a_bar_for_each_library_and_names_its_unit() {
        let svg = drawn();
        assert_eq!(svg.matches("<rect class=\"p\"").count(), 1, "ours is highlighted");
        assert_eq!(svg.matches("<rect class=\"b\"").count(), 2);
        assert!(svg.contains(">M msg/s</text>") && svg.contains("8.00 M msg/s"), "{svg}");
    }

    #[test]
    fn the_floor_does_not_flatten_the_libraries() {
        let svg = drawn();
        assert_eq!(svg.matches("<path class=\"bg\"").count(), 2, "its bar is cut");
        let ours = svg.split("<rect class=\"p\"").nth(1).unwrap_or_default();
        assert!(ours.contains("width=\"142.9\""), "{ours}");
    }

    #[test]
    fn names_cannot_break_the_markup() {
        assert_eq!(escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
