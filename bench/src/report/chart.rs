//! Charts: one file per group, horizontal bars, written by hand as SVG. Colours work on light and dark pages.

use std::fmt::Write;

use super::show;
use crate::compare::{Case, GROUPS, Run};

const WIDTH: f64 = 760.0;
/// Where bars begin.
const BARS_X: f64 = 170.0;
/// Longest bar.
const BARS_WIDTH: f64 = 400.0;
const ROW_HEIGHT: f64 = 20.0;
const TITLE_HEIGHT: f64 = 30.0;

const STYLE: &str = "<style>text{font:13px sans-serif;fill:#24292f}.t{font-weight:bold}\
.b{fill:#8c959f}.p{fill:#0969da}.s{stroke:#57606a;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6e7681}.p{fill:#4493f8}.s{stroke:#9198a1}}</style>";

/// Name and content of each chart.
pub(super) fn all(run: &Run) -> Vec<(String, String)> {
    GROUPS
        .iter()
        .filter_map(|group| {
            let cases: Vec<&Case> = run.cases.iter().filter(|case| case.group == *group).collect();
            (!cases.is_empty()).then(|| (format!("{group}.svg"), chart(run, &cases)))
        })
        .collect()
}

fn chart(run: &Run, cases: &[&Case]) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for case in cases {
        y = panel(&mut body, run, case, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\">\n{STYLE}\n{body}</svg>\n",
        y + 10.0
    )
}

/// One case: a title and a bar for each library, with a line from the least to the most. Returns where it ends.
fn panel(body: &mut String, run: &Run, case: &Case, mut y: f64) -> f64 {
    y += TITLE_HEIGHT;
    let title = escape(&format!("{}: {}, {}", case.group, case.name, case.placement));
    let _ = writeln!(body, "<text class=\"t\" x=\"10\" y=\"{:.0}\">{title}</text>", y - 9.0);
    let bars: Vec<_> = run
        .header
        .libraries
        .iter()
        .filter_map(|(library, _)| {
            let figure = case.measure.figure();
            Some((library, run.spread(case.group, &case.name, library, figure)?))
        })
        .collect();
    // The floor is often far away; bars of libraries keep their resolution, and its bar is cut.
    let libraries = bars.iter().filter(|(library, _)| *library != "floor" || bars.len() == 1);
    let most = libraries.map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| (value / most).min(1.15) * BARS_WIDTH;
    for (library, spread) in bars {
        let class = if library == "peermq" { "p" } else { "b" };
        let (width, text_y, line_y) = (scale(spread.median), y + 13.0, y + 8.5);
        let (from, to) = (BARS_X + scale(spread.min), BARS_X + scale(spread.max));
        let label = escape(&show(spread.median, case.measure));
        let label_x = to.max(BARS_X + width) + 6.0;
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{text_y:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{BARS_X}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"13\"/>\
             <line class=\"s\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{line_y:.1}\" y2=\"{line_y:.1}\"/>\
             <text x=\"{label_x:.1}\" y=\"{text_y:.1}\">{label}</text>",
            BARS_X - 8.0,
            escape(library),
            y + 2.0,
        );
        y += ROW_HEIGHT;
    }
    y
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
