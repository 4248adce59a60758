//! Header blocks of SPDY/3: names and values, compressed with one zlib stream a direction.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::spdy::Error;

/// The words at the start of the dictionary (SPDY/3, section 2.6.10.1), each of which stands in it with its
/// length. `_` is a blank.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date \
    etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url \
    public set-cookie keep-alive origin";

/// The rest of the dictionary.
const REST: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 No",
    "n-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403",
    " Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Fe",
    "b Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunke",
    "d,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/",
    "javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
);

/// Most bytes of a block that has been decompressed.
const LARGEST: usize = 16 << 10;
/// How much is decompressed at a time.
const STEP: usize = 4 << 10;

/// The dictionary that both ends know.
fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        // No word is longer than a length can say.
        dictionary.put_u32(u32::try_from(word.len()).unwrap_or_default());
        dictionary.extend(
            word.bytes()
                .map(|byte| if byte == b'_' { b' ' } else { byte }),
        );
    }
    dictionary.extend_from_slice(REST.as_bytes());
    dictionary
}

/// Reads the blocks of one direction, in the order in which they come.
pub(super) struct Reader {
    zlib: Decompress,
}

impl Reader {
    pub fn new() -> Reader {
        Reader {
            zlib: Decompress::new(true),
        }
    }

    /// The names and values of a block. Names are in lower case.
    pub fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let block = self.decompress(block)?;
        parse(block).ok_or(Error::Headers)
    }

    fn decompress(&mut self, block: &[u8]) -> Result<Bytes, Error> {
        let mut out = Vec::new();
        let start = self.zlib.total_in();
        loop {
            let used = usize::try_from(self.zlib.total_in() - start).unwrap_or(usize::MAX);
            let rest = block.get(used..).unwrap_or_default();
            out.reserve(STEP);
            let before = out.len();
            match self
                .zlib
                .decompress_vec(rest, &mut out, FlushDecompress::Sync)
            {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&dictionary())
                        .map_err(|_| Error::Headers)?;
                    continue;
                }
                Err(_) => return Err(Error::Headers),
            }
            if out.len() > LARGEST {
                return Err(Error::TooLong);
            }
            // A step that was not filled was the last.
            let used_now = usize::try_from(self.zlib.total_in() - start).unwrap_or(usize::MAX);
            if used_now >= block.len() && out.len() < out.capacity() {
                return Ok(out.into());
            }
            if out.len() == before && used_now == used {
                return Err(Error::Headers);
            }
        }
    }
}

fn parse(mut block: Bytes) -> Option<Vec<(String, String)>> {
    let text = |block: &mut Bytes| {
        let length = usize::try_from(block.try_get_u32().ok()?).ok()?;
        if length > block.len() {
            return None;
        }
        String::from_utf8(block.split_to(length).to_vec()).ok()
    };
    let count = block.try_get_u32().ok()?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        headers.push((name, text(&mut block)?));
    }
    Some(headers)
}

/// Writes the blocks of one direction.
pub(super) struct Writer {
    zlib: Compress,
}

impl Writer {
    pub fn new() -> Result<Writer, Error> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary())
            .map_err(|_| Error::Headers)?;
        Ok(Writer { zlib })
    }

    /// A block of these names and values.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Result<Bytes, Error> {
        let mut block = BytesMut::new();
        let length = |length: usize| u32::try_from(length).map_err(|_| Error::TooLong);
        block.put_u32(length(headers.len())?);
        for (name, value) in headers {
            for text in [name, value] {
                block.put_u32(length(text.len())?);
                block.put_slice(text.as_bytes());
            }
        }
        // Room for the block as it is, and for what zlib puts around it.
        let mut out = Vec::with_capacity(block.len() + 64);
        self.zlib
            .compress_vec(&block, &mut out, FlushCompress::Sync)
            .map_err(|_| Error::Headers)?;
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_standard() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_stream_are_read_in_order() {
        let (mut writer, mut reader) = (Writer::new().unwrap(), Reader::new());
        let long = "x".repeat(10_000);
        for headers in [
            vec![("streamtype", "data"), ("port", "80"), ("requestid", "0")],
            vec![],
            vec![("streamtype", "error"), ("port", "80")],
            vec![("long", long.as_str())],
            vec![("streamtype", "error")],
        ] {
            let block = writer.write(&headers).unwrap();
            let want: Vec<(String, String)> = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(reader.read(&block).unwrap(), want);
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        assert!(matches!(
            Reader::new().read(b"nothing"),
            Err(Error::Headers)
        ));
        let mut writer = Writer::new().unwrap();
        let bomb = "x".repeat(1 << 20);
        let block = {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&dictionary()).unwrap();
            let mut out = Vec::with_capacity(1 << 16);
            zlib.compress_vec(bomb.as_bytes(), &mut out, FlushCompress::Sync)
                .unwrap();
            out
        };
        assert!(matches!(Reader::new().read(&block), Err(Error::TooLong)));
        let mut block = writer.write(&[("a", "b")]).unwrap().to_vec();
        block.truncate(block.len() / 2);
        assert!(matches!(Reader::new().read(&block), Err(Error::Headers)));
    }
}
