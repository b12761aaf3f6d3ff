//! Tests of keyframe detection. The payloads' beginnings are what ffmpeg 5.1 sends for a test
//! picture of 64 × 64 (libx264, libx265, libvpx; two keyframes' packets and others), and, for AV1,
//! aggregation headers that Chrome sends. What no encoder at hand makes is put together by the
//! RFCs.

use proptest::prelude::*;

use super::*;
use crate::rtp::vectors::unhex;

fn all(begins: fn(&[u8]) -> bool, payloads: &[(&str, bool)]) {
    for (payload, expected) in payloads {
        assert_eq!(begins(&unhex(payload)), *expected, "{payload}");
    }
}

#[test]
fn vp8_keyframes_begin_with_a_first_partition_that_says_so() {
    all(
        begins_in_vp8,
        &[
            ("908080001022009d012a400040000047", true),
            ("808080003746710566cd471141184fad", false), // its second packet
            ("908080015107000a1010001ec1a4ad89", false), // the next picture
            ("8080800109eb92bd9f0c3be9e33a6bed", false),
            ("9080800251040010", false),
            // No extension; long picture id; all of it: id, TL0PICIDX, TID and KEYIDX.
            ("10d003009d012a", true),
            ("101103009d012a", false),
            ("9080fffe1022009d01", true),
            ("90f0812345601022", true),
            ("90f0812345601122", false),
            ("11d003009d012a", false), // another partition
            ("90", false),
            ("9080", false),
            ("908080", false),
            ("90f08123", false),
            ("10", false),
            ("", false),
        ],
    );
}

#[test]
fn vp9_keyframes_are_predicted_from_nothing() {
    all(
        begins_in_vp9,
        &[
            ("08a2498342e003f003f60638241c1842", true),
            ("0060406598bd99490310ad3073ac3daf", false), // its second packet
            ("049f39a23807af66bf1f0685425c791e", false), // its last
            ("4ca60040929c28494000037000007bc2", false), // predicted
            // Picture ids of one and two bytes; layers, of which only the lowest begins a picture.
            ("8801a249", true),
            ("888001a249", true),
            ("c88001a249", false),
            ("a8800100a249", true),
            ("a8800102a249", false),
            ("88", false),
            ("8880", false),
            ("a88001", false),
            ("", false),
        ],
    );
}

#[test]
fn h264_keyframes_begin_with_parameters_or_an_idr_slice() {
    all(
        begins_in_h264,
        &[
            // Parameter sets, aggregated; and cut off within the first.
            ("1800166742c00ada109b011000000300100000030148f1226a000468ce0fc8", true),
            ("1800166742c00ada109b011000000300", false),
            ("1c8605ffff50dc45e9bde6d948b7962c", false), // a message
            ("7c8588843a0c600080040d6703667565", true),  // an IDR slice's first fragment
            ("7c050077c800034008089600be8c0241", false),
            ("7c45a0003ac12e7c1e67600052da0202", false), // its last
            ("5c819a2011af1b14c518a3147c0277db", false), // another slice
            ("6588843a0c60", true),
            ("6742c00ada10", true),
            ("68ce3c80", false),
            ("419a2011", false),
            ("180002410900026588", true),
            ("19000700026588", true),
            ("18", false),
            ("1800", false),
            ("180000", false),
            ("7c", false),
            ("", false),
        ],
    );
}

#[test]
fn h265_keyframes_begin_with_parameters_or_a_picture_of_random_access() {
    all(
        begins_in_h265,
        &[
            ("6001000440010c01", true),                  // parameter sets, aggregated
            ("6201a705fffffffffffffffff02ca2de", false), // a message's first fragment
            ("620194ade0670335bffb6c13eaeb5240", true),  // an IDR picture's first fragment
            ("6201148ec0e5e17ca365b2e528812c96", false),
            ("2601af08", true),
            ("0201d00d", false),
            ("62", false),
            ("6201", false),
            ("", false),
        ],
    );
}

#[test]
fn av1_keyframes_begin_a_coded_video_sequence() {
    all(
        begins_in_av1,
        &[
            ("280b0a0b00000003", true),
            ("50320010", false),
            ("a80b0a0b", false), // goes on with a unit of the packet before
            ("10300f00", false),
            ("28", false),
            ("", false),
        ],
    );
}

proptest! {
    #[test]
    fn any_payload_is_looked_at_in_bounds(
        head: [u8; 4],
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let payload = [&head[..], &tail].concat();
        for begins in
            [begins_in_vp8, begins_in_vp9, begins_in_h264, begins_in_h265, begins_in_av1]
        {
            for len in 0..payload.len() {
                begins(&payload[..len]);
            }
        }
    }
}
