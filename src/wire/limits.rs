//! The bounds that every wire reader holds a peer to.

/// How much one peer may claim, send or make us keep. All byte counts are body bytes unless said
/// otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireLimits {
    /// Sum of the frame bodies of one message.
    pub(crate) message_bytes_max: usize,
    /// Frames of one message.
    pub(crate) frames_per_message_max: usize,
    /// Body of one command, its name included.
    pub(crate) command_bytes_max: usize,
    /// Everything a peer sends until it is ready: greeting, frame header, READY.
    pub(crate) handshake_bytes_max: usize,
    /// The property list of READY.
    pub(crate) metadata_bytes_max: usize,
    /// Properties in READY.
    pub(crate) metadata_properties_max: usize,
}

impl Default for WireLimits {
    /// 1 GiB messages of 65,536 frames, subscriptions up to 64 KiB, 16 KiB handshakes.
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 30,
            frames_per_message_max: 65_536,
            command_bytes_max: 65_536 + 64,
            handshake_bytes_max: 16 * 1024,
            metadata_bytes_max: 8 * 1024,
            metadata_properties_max: 64,
        }
    }
}
