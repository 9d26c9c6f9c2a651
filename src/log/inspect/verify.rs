//! Verifying a log: the files of the log itself, then partition by partition.

use std::path::Path;
use std::sync::Arc;

use super::partition::PartitionVerifier;
use super::survey::{Survey, TopicSurvey};
use super::{Finding, Progress, VerifyReport};
use crate::log::error::LogError;
use crate::log::storage::Storage;

/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Counts bytes and tells whoever wants to know.
pub(super) struct Meter<'p> {
    tell: &'p mut dyn FnMut(Progress<'_>),
    pub(super) bytes: u64,
    told: u64,
    total: u64,
}

impl<'p> Meter<'p> {
    pub(super) fn new(total: u64, tell: &'p mut dyn FnMut(Progress<'_>)) -> Self {
        Self { tell, bytes: 0, told: 0, total }
    }

    /// So many more bytes were looked at.
    pub(super) fn advance(&mut self, topic: &str, partition: u32, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes - self.told >= PROGRESS_BYTES || self.bytes >= self.total {
            self.told = self.bytes;
            let (bytes, bytes_total) = (self.bytes, self.total.max(self.bytes));
            (self.tell)(Progress { topic, partition, bytes, bytes_total });
        }
    }
}

pub(super) fn verify(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<VerifyReport, LogError> {
    let mut survey = Survey::new(storage, directory)?;
    let mut report = VerifyReport::default();
    report.findings.append(&mut survey.findings);
    let mut meter = Meter::new(survey.bytes_total(), progress);
    for topic in &survey.topics {
        report.topics += 1;
        for number in 0..topic.options.partitions {
            report.partitions += 1;
            verify_partition(&survey, topic, number, &mut report, &mut meter);
        }
    }
    Ok(report)
}

fn verify_partition(
    survey: &Survey,
    topic: &TopicSurvey,
    number: u32,
    report: &mut VerifyReport,
    meter: &mut Meter<'_>,
) {
    let home = survey.home(&topic.name, number);
    let log_start = survey.log_start(&topic.name, number);
    let closed_at = survey.closed_at(&topic.name, number);
    let verifier = PartitionVerifier { home: &home, log_start, closed_at, report, meter };
    let place = home.place();
    if let Err(error) = verifier.run(topic.id) {
        let place = crate::log::Place { path: Some(home.directory.clone()), ..place };
        report.findings.push(super::survey::missing_or_unreadable(place, error));
    }
}

impl VerifyReport {
    pub(super) fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
}
