//! One table for each group: a row per library, a column per figure, and the rest of the figures folded away.

use std::fmt::Write;

use super::number::{Kind, Unit};
use crate::compare::{Archive, Measure, Row, Run};

/// Figures of which every group has some, for the folded table.
const MORE: [(&str, &str); 6] = [
    ("p90_us", "p90"),
    ("p999_us", "p99.9"),
    ("cpu_s_per_million", "CPU s per million"),
    ("listener_cpu_share", "listener's CPU, % of a core"),
    ("connector_cpu_share", "connecting side's CPU, % of a core"),
    ("foreign_cpu_share", "others' CPU, % of the machine"),
];

/// One figure of one case.
struct Column<'a> {
    row: &'a Row,
    figure: &'static str,
    kind: Kind,
    /// What every cell of the column is given in; times bring a unit each, because they lie far apart.
    unit: Option<Unit>,
    title: String,
}

impl<'a> Column<'a> {
    fn new(archive: &Archive, row: &'a Row, figure: &'static str, name: &str) -> Self {
        let kind = Kind::of(figure);
        let medians = archive.libraries().into_iter().filter_map(|(library, _)| {
            archive.latest(row, &[library])?.median(row, library, figure)
        });
        let largest = medians.fold(0.0, f64::max);
        let unit = (kind != Kind::Time).then(|| kind.unit(largest));
        let unit_name = unit.map_or("", |unit| unit.name);
        let words = [name, unit_name].into_iter().filter(|word| !word.is_empty());
        let title = words.collect::<Vec<_>>().join(", ");
        Self { row, figure, kind, unit, title }
    }

    /// Median and spread of a library's figure, with what weakens it.
    fn cell(&self, run: &Run, library: &str) -> Option<String> {
        let spread = run.spread(self.row, library, self.figure)?;
        let unit = self.unit.unwrap_or_else(|| self.kind.unit(spread.median));
        let [median, min, max] =
            [spread.median, spread.min, spread.max].map(|value| unit.number(value));
        let name = if self.unit.is_none() { format!(" {}", unit.name) } else { String::new() };
        let rounds = run.rounds(self.row, library);
        let failed = match run.error(self.row, library) {
            Some(_) => format!(", only {rounds} of {} rounds", run.header.rounds),
            None => String::new(),
        };
        Some(format!("{median}{name} ({min}..{max}){failed}"))
    }
}

/// The figures of a case that have a column of their own.
fn columns<'a>(archive: &Archive, row: &'a Row) -> Vec<Column<'a>> {
    let case = row.case.as_str();
    let column = |figure, name: &str| Column::new(archive, row, figure, name);
    let mut columns = match row.measure {
        Measure::Rate => vec![column("messages_per_s", case)],
        Measure::Time => {
            vec![column("p50_us", &format!("{case}: p50")), column("p99_us", "p99")]
        }
        Measure::Memory => vec![column("bytes_per_connection", &format!("{case}: memory of each"))],
    };
    match row.group.as_str() {
        "router" => columns.extend([
            column("slowest_of_mean", "slowest peer of the mean"),
            column("connect_s", "time to connect all"),
            column("cpu_s_per_million", "CPU per million, both sides"),
        ]),
        "memory" => columns.extend([
            column("connect_s", "time to connect all"),
            column("listener_cpu_share", "idle CPU"),
        ]),
        "openloop" if row.measure == Measure::Time => {
            columns.push(column("delivered_of_due", "in time"));
        }
        _ => {}
    }
    columns
}

/// Writes a group's heading, placements and tables. `names` names the runs.
pub(super) fn group(
    page: &mut String,
    archive: &Archive,
    group: &str,
    names: &dyn Fn(&Run) -> String,
) {
    let rows = archive.rows(group);
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(page, "## {group}\n\n![{group}]({group}.svg)\n");
    placements(page, &rows);
    let columns: Vec<Column> = rows.iter().flat_map(|row| columns(archive, row)).collect();
    let newest = rows.iter().filter_map(|row| newest(archive, row)).max_by_key(started);
    let Some(newest) = newest else { return };
    let _ = writeln!(page, "Run {}, where a cell names no other.\n", names(newest));
    let _ = write!(page, "| library |");
    for column in &columns {
        let _ = write!(page, " {} |", column.title);
    }
    let _ = writeln!(page, "\n|---|{}", "---|".repeat(columns.len()));
    for (library, _) in archive.libraries() {
        let tried = |row: &Row| archive.latest(row, &[library]).is_some();
        if !rows.iter().any(tried) {
            continue;
        }
        let _ = write!(page, "| {} |", shown(library));
        for column in &columns {
            let _ = write!(page, " {} |", cell(archive, column, library, newest, names));
        }
        page.push('\n');
    }
    page.push('\n');
    more(page, archive, &rows);
}

fn started(run: &&Run) -> u64 {
    run.header.started_unix_s
}

/// The run that measured a case last.
fn newest<'a>(archive: &'a Archive, row: &Row) -> Option<&'a Run> {
    let libraries = archive.libraries();
    let runs = libraries.iter().filter_map(|(library, _)| archive.latest(row, &[library]));
    runs.max_by_key(started)
}

/// Our own library stands out.
fn shown(library: &str) -> String {
    if library == "peermq" { format!("**{library}**") } else { library.to_owned() }
}

/// The latest record of a cell: the figure, or the reason why there is none; with its run if it is another than most.
fn cell(
    archive: &Archive,
    column: &Column,
    library: &str,
    newest: &Run,
    names: &dyn Fn(&Run) -> String,
) -> String {
    let Some(run) = archive.latest(column.row, &[library]) else { return "-".to_owned() };
    let text = match (column.cell(run, library), run.error(column.row, library)) {
        (Some(figure), _) => figure,
        (None, Some(error)) if column.figure == column.row.measure.figure() => {
            error.replace('|', "/").replace('\n', " ")
        }
        (None, _) => "-".to_owned(),
    };
    let same = run.header.started_unix_s == newest.header.started_unix_s;
    if same || text == "-" { text } else { format!("{text} [{}]", names(run)) }
}

/// Says where the sides ran: once if all cases of the group agree.
fn placements(page: &mut String, rows: &[Row]) {
    let same = rows.iter().all(|row| row.placement == rows[0].placement);
    if same {
        let _ = writeln!(page, "Placement: {}.\n", rows[0].placement);
        return;
    }
    let each: Vec<String> =
        rows.iter().map(|row| format!("{}: {}", row.case, row.placement)).collect();
    let _ = writeln!(page, "Placement: {}.\n", each.join("; "));
}

/// Figures beside the main ones.
fn more(page: &mut String, archive: &Archive, rows: &[Row]) {
    page.push_str("<details><summary>more figures (medians)</summary>\n\n| case | library |");
    for (_, name) in MORE {
        let _ = write!(page, " {name} |");
    }
    let _ = writeln!(page, "\n|---|---|{}", "---|".repeat(MORE.len()));
    for row in rows {
        for (library, _) in archive.libraries() {
            let Some(run) = archive.latest(row, &[library]) else { continue };
            if run.median(row, library, row.measure.figure()).is_none() {
                continue;
            }
            let _ = write!(page, "| {} | {} |", row.case, shown(library));
            for (figure, _) in MORE {
                let value = run.median(row, library, figure);
                let text = value.map(|value| Kind::of(figure).show(value)).unwrap_or_default();
                let _ = write!(page, " {text} |");
            }
            page.push('\n');
        }
    }
    page.push_str("\n</details>\n\n");
}
