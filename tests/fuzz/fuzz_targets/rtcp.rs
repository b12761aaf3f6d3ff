//! Any plaintext as an RTCP compound: it ends, every report can be read to its end, and a sender or
//! receiver report that is written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::rtp::rtcp::{Report, reports};

fuzz_target!(|compound: &[u8]| {
    let mut count = 0;
    let mut out = [0; 2_048];
    for report in reports(compound) {
        count += 1;
        match report {
            Report::SenderReport(report) => {
                assert_eq!(report.blocks.iter().count(), report.blocks.0.len());
                let length = report.write(&mut out).expect("31 blocks fit");
                let again = reports(&out[..length]).next();
                assert_eq!(again, Some(Report::SenderReport(report)));
            }
            Report::ReceiverReport(report) => {
                let length = report.write(&mut out).expect("31 blocks fit");
                let again = reports(&out[..length]).next();
                assert_eq!(again, Some(Report::ReceiverReport(report)));
            }
            Report::Sdes(sdes) => assert!(sdes.items().count() <= compound.len()),
            Report::Bye(bye) => assert!(bye.ssrcs().count() <= 31),
            Report::Nack(nack) => assert!(nack.lost().count() <= compound.len() / 4 * 17),
            Report::Fir(fir) => assert!(fir.requests().count() <= compound.len() / 8),
            Report::Remb(remb) => assert!(remb.ssrcs().count() <= 255),
            Report::TransportCc(feedback) => {
                assert!(feedback.statuses().count() <= usize::from(feedback.status_count));
            }
            Report::Pli(_) | Report::Other { .. } => {}
        }
    }
    assert!(count <= compound.len() / 4, "each report takes four bytes at least");
});
