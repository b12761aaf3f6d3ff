//! `stentor plan`: how many cores, bits and bytes a guild takes on this host, from what things were
//! measured to cost here. `calibrate` makes the costs with runs of `load`; everything else is
//! arithmetic on them, which `--explain` shows. Called by `main`.

pub mod calibration;
pub mod fit;
pub mod model;
pub mod profile;
