//! The frame: `94 C3`, the payload's length as two bytes, big endian, the payload
//! (`StreamAPI.cpp`).

/// The two bytes that start a frame.
pub const MAGIC: [u8; 2] = [0x94, 0xC3];
/// Bytes before the payload: the magic and the length.
pub const HEADER_LEN: usize = 4;
/// The longest payload, in bytes; a header that claims more is not a header.
pub const MAX_PAYLOAD: usize = 512;
/// The longest frame, in bytes.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD;
/// What wakes a node's serial port before the first frame: 32 times `C3`.
pub const WAKE: [u8; 32] = [0xC3; 32];

/// A payload's length that fits a frame: 0 to 512 bytes, checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FrameLen(u16);

impl FrameLen {
    /// The length `bytes`, or `None` over 512.
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes <= MAX_PAYLOAD { Some(Self(bytes as u16)) } else { None }
    }

    /// The length that the last two bytes of a header claim, or `None` over 512.
    pub const fn from_header(bytes: [u8; 2]) -> Option<Self> {
        Self::new(u16::from_be_bytes(bytes) as usize)
    }

    /// The payload's length in bytes.
    pub const fn payload(self) -> usize {
        self.0 as usize
    }

    /// The whole frame's length in bytes.
    pub const fn frame(self) -> usize {
        HEADER_LEN + self.0 as usize
    }

    /// The header of a frame with this length.
    pub const fn header(self) -> [u8; HEADER_LEN] {
        let [hi, lo] = self.0.to_be_bytes();
        [MAGIC[0], MAGIC[1], hi, lo]
    }
}

/// Why a payload could not be made a frame. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum EncodeError {
    /// The payload has this many bytes; a frame takes 512.
    TooLong(usize),
    /// The buffer would have to have this many bytes.
    BufferTooSmall(usize),
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "payload of {len} bytes, a frame takes {MAX_PAYLOAD}"),
            Self::BufferTooSmall(need) => write!(f, "buffer too small, the frame needs {need}"),
        }
    }
}

impl core::error::Error for EncodeError {}

/// Writes `payload` as a frame to the start of `out`; returns the frame.
pub fn encode<'a>(payload: &[u8], out: &'a mut [u8]) -> Result<&'a [u8], EncodeError> {
    let len = FrameLen::new(payload.len()).ok_or(EncodeError::TooLong(payload.len()))?;
    let too_small = EncodeError::BufferTooSmall(len.frame());
    let frame = out.get_mut(..len.frame()).ok_or(too_small)?;
    if let Some((header, body)) = frame.split_first_chunk_mut::<HEADER_LEN>() {
        *header = len.header();
        // Not `copy_from_slice`, which links a panic for lengths that differ; these do not.
        body.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_end_at_512() {
        assert_eq!(FrameLen::new(512).map(FrameLen::frame), Some(516));
        assert_eq!(FrameLen::new(513), None);
        assert_eq!(FrameLen::from_header([0x02, 0x00]).map(FrameLen::payload), Some(512));
        assert_eq!(FrameLen::from_header([0x02, 0x01]), None);
        assert_eq!(FrameLen::from_header([0xFF, 0xFF]), None);
    }

    #[test]
    fn encodes_header_and_payload() {
        let mut out = [0; 6];
        assert_eq!(encode(&[0x3A, 0], &mut out), Ok(&[0x94, 0xC3, 0, 2, 0x3A, 0][..]));
        assert_eq!(encode(&[0; 3], &mut out), Err(EncodeError::BufferTooSmall(7)));
        assert_eq!(encode(&[0; 513], &mut [0; 600]), Err(EncodeError::TooLong(513)));
        assert_eq!(encode(&[], &mut out), Ok(&[0x94, 0xC3, 0, 0][..]));
    }
}
