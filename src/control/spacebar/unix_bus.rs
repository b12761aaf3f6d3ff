//! Spacebar's bus over unix sockets (protocol.md §6.1): a directory of sockets, one for each
//! process that listens; who has something to say connects to all of them. We add one of our own.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tracing::{debug, info, warn};

use super::{
    errands::Desk,
    event::{self, Notice},
    frame::{Frames, frame},
    vigil,
};

/// How often it is looked whether our socket is still where it was put: whoever clears the
/// directory takes it with him.
const LOOK: Duration = Duration::from_secs(1);

/// Time for handing one event to one listener.
const SAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Processes that may talk to us at once; Spacebar has a handful.
const TALKERS_MAX: usize = 256;

/// Bytes taken from one talker at a time.
const READ_BYTES: usize = 64 * 1_024;

/// Read and write for the owner and the directory's group: Spacebar runs as another user.
const SOCKET_MODE: u32 = 0o660;

/// Our socket's name in the directory: no other server on this machine has this port.
pub(super) fn socket_name(port: u16) -> String {
    format!("stentor-{port}.sock")
}

/// Listens as long as it is polled.
pub(super) async fn listen(desk: &Arc<Desk>, directory: &Path) {
    let path = directory.join(socket_name(desk.gateway_port()));
    let _remove = RemoveOnDrop(path.clone());
    let mut has_complained = false;
    loop {
        match bind(&path) {
            Ok((listener, inode)) => {
                info!(socket = %path.display(), "listening on Spacebar's bus");
                has_complained = false;
                desk.tally().watching.store(true, Ordering::Relaxed);
                vigil::look_again(desk);
                accept_while_there(desk, &listener, &path, inode).await;
                desk.tally().watching.store(false, Ordering::Relaxed);
                warn!(socket = %path.display(), "the bus socket has gone; making it anew");
            }
            Err(error) if !has_complained => {
                has_complained = true;
                warn!(
                    socket = %path.display(), %error,
                    "cannot listen on Spacebar's bus: is spacebar.socket_path its \
                     EVENT_SOCKET_PATH, and writable?"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A fresh socket at this place, and its inode.
fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    match fs::symlink_metadata(path) {
        // Left behind by an earlier run.
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("something that is no socket is in its place")),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    let inode = fs::symlink_metadata(path)?.ino();
    Ok((listener, inode))
}

async fn accept_while_there(desk: &Arc<Desk>, listener: &UnixListener, path: &Path, inode: u64) {
    let places = Arc::new(Semaphore::new(TALKERS_MAX));
    let mut look = tokio::time::interval(LOOK);
    // Those who talk are cut off with the socket they came to.
    let mut talkers = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    while talkers.try_join_next().is_some() {}
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let desk = desk.clone();
                    talkers.spawn(async move {
                        hear(&desk, socket).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept on Spacebar's bus");
                    tokio::time::sleep(LOOK).await;
                }
            },
            _ = look.tick() => {
                let found = fs::symlink_metadata(path);
                if !found.is_ok_and(|found| found.ino() == inode) {
                    return;
                }
            }
        }
    }
}

/// Reads one talker to its end.
async fn hear(desk: &Arc<Desk>, mut socket: UnixStream) {
    let mut frames = Frames::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => frames.push(&buffer[..count]),
            Err(error) => {
                debug!(%error, "a talker of Spacebar's bus broke off");
                return;
            }
        }
        while let Some(frame) = frames.next_frame() {
            if let Some(happening) = event::read(frame) {
                vigil::hear(desk, happening);
            }
        }
    }
}

/// Hands an event to every listener but ourselves; gives how many took it.
pub(super) async fn say(directory: &Path, notice: &Notice) -> usize {
    let bytes = frame(&notice.to_json());
    let sockets = match sockets(directory) {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(directory = %directory.display(), %error, "cannot read Spacebar's bus directory");
            return 0;
        }
    };
    let bytes = &bytes;
    let handed = sockets.iter().map(|path| async move {
        let hand = async {
            let mut socket = UnixStream::connect(path).await?;
            socket.write_all(bytes).await?;
            socket.shutdown().await
        };
        match tokio::time::timeout(SAY_TIMEOUT, hand).await {
            Ok(Ok(())) => 1,
            Ok(Err(error)) => {
                // A process that has ended may have left its socket behind.
                debug!(socket = %path.display(), %error, "a listener did not take an event");
                0
            }
            Err(_) => {
                warn!(socket = %path.display(), "a listener did not take an event in time");
                0
            }
        }
    });
    futures_util::future::join_all(handed).await.into_iter().sum()
}

/// Other processes' sockets.
pub(super) fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with("stentor-");
        if name.ends_with(".sock") && !is_ours && entry.file_type()?.is_socket() {
            sockets.push(entry.path());
        }
    }
    sockets.sort_unstable();
    Ok(sockets)
}
