//! The property files: `meta.properties` of a log directory and `partition.metadata` of a partition.

use super::error::{Fault, Field, FormatError};
use super::id::Id;

/// Versions of `meta.properties` that are understood.
const META_VERSIONS: std::ops::RangeInclusive<i32> = 0..=1;

/// `meta.properties`: whose log directory this is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetaProperties {
    /// The cluster's id; 1 to 64 visible ASCII characters.
    pub cluster_id: String,
    /// The node's number, not negative.
    pub node_id: i32,
    /// The directory's own id, if it has one.
    pub directory_id: Option<Id>,
}

impl MetaProperties {
    /// The text of the file, version 1.
    ///
    /// # Errors
    /// `Malformed` for a cluster id or a node number that the file cannot have.
    pub fn encode(&self) -> Result<String, FormatError> {
        if !is_valid_cluster_id(&self.cluster_id) || self.node_id < 0 {
            return Err(FormatError::new(Field::Property, 0, Fault::Malformed));
        }
        let cluster_id = escape(&self.cluster_id);
        let mut text = format!("version=1\ncluster.id={cluster_id}\nnode.id={}\n", self.node_id);
        if let Some(id) = self.directory_id {
            text.push_str(&format!("directory.id={id}\n"));
        }
        Ok(text)
    }

    /// Reads the file. Comments, empty lines and properties of other names are skipped; the node may be called
    /// `broker.id`, as in version 0.
    ///
    /// # Errors
    /// `Malformed` line or value, a property that is missing or there twice, a version other than 0 and 1.
    pub fn decode(text: &[u8]) -> Result<Self, FormatError> {
        let properties = Properties::parse(text, "=")?;
        let (version, at) = properties.required("version")?;
        let version: i32 = number(version, Field::Version, at)?;
        if !META_VERSIONS.contains(&version) {
            let fault = Fault::Invalid { found: version.into() };
            return Err(FormatError::new(Field::Version, at, fault));
        }
        let node = if version == 0 { "broker.id" } else { "node.id" };
        let (node_id, node_at) = properties.required(node)?;
        let (cluster_id, at) = properties.required("cluster.id")?;
        if !is_valid_cluster_id(cluster_id) {
            return Err(malformed(at));
        }
        let directory_id = match properties.get("directory.id")? {
            Some((id, at)) => Some(parse_id(id, at)?),
            None => None,
        };
        let node_id = number(node_id, Field::Property, node_at)?;
        Ok(Self { cluster_id: cluster_id.to_owned(), node_id, directory_id })
    }
}

/// `partition.metadata`: which topic a partition's directory belongs to, though another may get its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionMetadata {
    /// The topic's id.
    pub topic_id: Id,
}

impl PartitionMetadata {
    /// The text of the file, version 0. It has no line feed at its end.
    pub fn encode(&self) -> String {
        format!("version: 0\ntopic_id: {}", self.topic_id)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A version other than 0, a malformed id, any other line.
    pub fn decode(text: &[u8]) -> Result<Self, FormatError> {
        let properties = Properties::parse(text, ": ")?;
        let (version, at) = properties.required("version")?;
        let version: i32 = number(version, Field::Version, at)?;
        if version != 0 {
            let fault = Fault::Invalid { found: version.into() };
            return Err(FormatError::new(Field::Version, at, fault));
        }
        let (id, id_at) = properties.required("topic_id")?;
        let topic_id = parse_id(id, id_at)?;
        match properties
            .entries
            .iter()
            .find(|entry| !["version", "topic_id"].contains(&&*entry.name))
        {
            Some(other) => Err(malformed(other.position)),
            None => Ok(Self { topic_id }),
        }
    }
}

/// One `name=value` line.
#[derive(Debug)]
struct Property {
    name: String,
    value: String,
    /// Where the line begins.
    position: usize,
}

#[derive(Debug)]
struct Properties {
    entries: Vec<Property>,
    bytes: usize,
}

impl Properties {
    fn parse(text: &[u8], separator: &str) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(text)
            .map_err(|error| FormatError::new(Field::File, error.valid_up_to(), Fault::NotUtf8))?;
        let mut entries = Vec::new();
        let mut position = 0;
        for line in text.split('\n') {
            if !line.is_empty() && !line.starts_with('#') {
                let (name, value) =
                    line.split_once(separator).ok_or_else(|| malformed(position))?;
                let value = unescape(value).ok_or_else(|| malformed(position))?;
                entries.push(Property { name: name.to_owned(), value, position });
            }
            position += line.len() + 1;
        }
        Ok(Self { entries, bytes: text.len() })
    }

    /// The value of a property and where its line begins. There twice, it would mean two things.
    fn get(&self, name: &str) -> Result<Option<(&str, usize)>, FormatError> {
        let mut found = self.entries.iter().filter(|entry| entry.name == name);
        let first = found.next().map(|entry| (entry.value.as_str(), entry.position));
        match found.next() {
            Some(second) => Err(malformed(second.position)),
            None => Ok(first),
        }
    }

    fn required(&self, name: &str) -> Result<(&str, usize), FormatError> {
        self.get(name)?.ok_or_else(|| malformed(self.bytes))
    }
}

fn malformed(position: usize) -> FormatError {
    FormatError::new(Field::Property, position, Fault::Malformed)
}

fn parse_id(text: &str, position: usize) -> Result<Id, FormatError> {
    text.parse().map_err(|_| FormatError::new(Field::TopicId, position, Fault::Malformed))
}

/// A decimal number without sign or leading zeros.
fn number(text: &str, field: Field, position: usize) -> Result<i32, FormatError> {
    let canonical = text == "0" || !text.starts_with(['0', '+', '-']);
    let number = text.parse().ok().filter(|_| canonical);
    number.ok_or_else(|| FormatError::new(field, position, Fault::Malformed))
}

fn is_valid_cluster_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What Java's property files put a backslash before.
const ESCAPED: [char; 5] = ['\\', '=', ':', '#', '!'];

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if ESCAPED.contains(&character) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// `None` for an escape that none of these files needs.
fn unescape(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            text.push(characters.next().filter(|escaped| ESCAPED.contains(escaped))?);
        } else {
            text.push(character);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BROKERS: &str = "#\n#Sat Nov 21 23:19:07 UTC 2026\nnode.id=1\ndirectory.id=h-TQVVWZEgV7uasyOvyKOw\n\
                           version=1\ncluster.id=Jc1FfFn4SDWRdIpaN-WJhA\n";

    #[test]
    fn the_file_of_a_real_broker_is_read() {
        let properties = MetaProperties::decode(BROKERS.as_bytes()).unwrap();
        assert_eq!(
            properties,
            MetaProperties {
                cluster_id: "Jc1FfFn4SDWRdIpaN-WJhA".to_owned(),
                node_id: 1,
                directory_id: Some("h-TQVVWZEgV7uasyOvyKOw".parse().unwrap()),
            }
        );
        let old = b"version=0\nbroker.id=3\ncluster.id=x\nlater.added=1\n";
        assert_eq!(MetaProperties::decode(old).unwrap().node_id, 3);
    }

    #[test]
    fn meta_properties_that_do_not_say_one_thing_are_refused() {
        for text in [
            "",
            "version=1\nnode.id=1\n",
            "version=1\ncluster.id=x\n",
            "node.id=1\ncluster.id=x\n",
            "version=1\nbroker.id=1\ncluster.id=x\n",
            "version=2\nnode.id=1\ncluster.id=x\n",
            "version=1\nnode.id=1\nnode.id=2\ncluster.id=x\n",
            "version=1\nnode.id=-1\ncluster.id=x\n",
            "version=1\nnode.id=1\ncluster.id=\n",
            "version=1\nnode.id=1\ncluster.id=x\\u0041\n",
            "version=1\nnode.id=1\ncluster.id=x\ndirectory.id=y\n",
            "version=1\nnode.id=1\ncluster.id=x\nnonsense\n",
        ] {
            assert!(MetaProperties::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn partition_metadata_is_the_brokers_byte_for_byte() {
        let text = "version: 0\ntopic_id: nsRZX1wyTUOPyhWDxRQlbQ";
        let metadata = PartitionMetadata::decode(text.as_bytes()).unwrap();
        assert_eq!(metadata.encode(), text);
        assert!(PartitionMetadata::decode(format!("{text}\n").as_bytes()).is_ok());
        for text in [
            "version: 1\ntopic_id: nsRZX1wyTUOPyhWDxRQlbQ",
            "version: 0",
            "version: 0\ntopic_id: nsRZX1wyTUOPyhWDxRQlbQ=",
            "version: 0\ntopic_id: nsRZX1wyTUOPyhWDxRQlbQ\nmore: 1",
            "version=0\ntopic_id=nsRZX1wyTUOPyhWDxRQlbQ",
        ] {
            assert!(PartitionMetadata::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn property_files_read_back(
            cluster_id in "[!-~]{1,64}", node_id in 0..=i32::MAX, id: Option<u128>, topic: u128,
        ) {
            let properties = MetaProperties { cluster_id, node_id, directory_id: id.map(Id::from_bits) };
            let text = properties.encode().unwrap();
            prop_assert_eq!(MetaProperties::decode(text.as_bytes()), Ok(properties));
            let metadata = PartitionMetadata { topic_id: Id::from_bits(topic) };
            prop_assert_eq!(PartitionMetadata::decode(metadata.encode().as_bytes()), Ok(metadata));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in "(version=1\n|cluster.id=.*\n|node.id=.*\n)*") {
            let _ = MetaProperties::decode(&bytes);
            let _ = PartitionMetadata::decode(&bytes);
            let _ = MetaProperties::decode(text.as_bytes());
        }
    }
}
