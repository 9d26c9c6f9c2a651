//! Where a subscriber is, in a form that can be kept.

use std::fmt;
use std::str::FromStr;

use crate::log::format::Id;

/// Where a subscriber is in one partition of a topic: with what is needed to notice, when it goes on there, that records
/// before it are gone since. As text it has no blanks, and is meant to be kept with what was made of the records.
///
/// ```
/// use peermq::log::Bookmark;
///
/// let kept = "nsRZX1wyTUOPyhWDxRQlbQ:0:15:3";
/// let bookmark: Bookmark = kept.parse()?;
/// assert_eq!((bookmark.partition, bookmark.offset, bookmark.epoch), (0, 15, 3));
/// assert_eq!(bookmark.to_string(), kept);
/// # Ok::<(), peermq::log::BadBookmark>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Bookmark {
    /// The topic's id, by which it is told from another one of its name.
    pub topic: Id,
    /// The partition.
    pub partition: u32,
    /// The offset after the last record that was handed out.
    pub offset: i64,
    /// A writer in whose log all records before the offset were; -1 if none is known.
    pub epoch: i32,
}

/// A text that is no bookmark.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no bookmark: topic id, partition, offset and epoch with colons between them")]
pub struct BadBookmark {
    /// The text.
    pub text: String,
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, offset, epoch } = self;
        write!(f, "{topic}:{partition}:{offset}:{epoch}")
    }
}

impl FromStr for Bookmark {
    type Err = BadBookmark;

    fn from_str(text: &str) -> Result<Self, BadBookmark> {
        let mut words = text.split(':');
        let mut take = || {
            let topic = words.next()?.parse().ok()?;
            let partition = words.next()?.parse().ok()?;
            let offset = words.next()?.parse().ok().filter(|offset| *offset >= 0)?;
            let epoch = words.next()?.parse().ok().filter(|epoch| *epoch >= -1)?;
            words.next().is_none().then_some(Self { topic, partition, offset, epoch })
        };
        take().ok_or_else(|| BadBookmark { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bookmark_reads_back(
            bits: u128,
            partition: u32,
            offset in 0..i64::MAX,
            epoch in -1..i32::MAX,
        ) {
            let bookmark = Bookmark { topic: Id::from_bits(bits), partition, offset, epoch };
            prop_assert_eq!(bookmark.to_string().parse(), Ok(bookmark));
        }
    }

    #[test]
    fn other_texts_are_no_bookmarks() {
        let id = Id::from_bits(7);
        for end in ["", ":0:1", ":0:1:2:3", ":-1:1:2", ":0:-1:2", ":0:1:-2", ":0:x:2", ":0:1:2 "] {
            let text = format!("{id}{end}");
            assert_eq!(text.parse::<Bookmark>(), Err(BadBookmark { text }));
        }
    }
}
