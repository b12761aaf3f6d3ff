//! Whether a Spacebar can be worked for.
