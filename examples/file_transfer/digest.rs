//! Reading a file piece by piece, and its CRC-32.

use std::{
    fs::File,
    io::{self, Read},
};

use bytes::Bytes;

use crate::wire::CHUNK;

pub(crate) fn read_chunk(file: &mut File) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}

/// Length and CRC-32 of what is left of a file.
pub(crate) fn digest(file: &mut File) -> io::Result<(u64, u32)> {
    let (mut len, mut crc) = (0, 0);
    loop {
        let chunk = read_chunk(file)?;
        if chunk.is_empty() {
            return Ok((len, crc));
        }
        len += chunk.len() as u64;
        crc = crc32(crc, &chunk);
    }
}

/// The CRC-32 of gzip, PNG and Ethernet, of `data` behind what has the CRC-32 `before`.
pub(crate) fn crc32(before: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!before, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};
