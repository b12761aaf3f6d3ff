// Microphones and cameras: opens them, lists them, and says in words why one could not be opened.

const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

const WORDS = {
  NotAllowedError: (what) =>
    `The browser refused the ${what}. Allow it in the address bar or in the system's settings, ` +
    "then try again.",
  NotFoundError: (what) => `There is no ${what} on this machine, or it is not plugged in.`,
  OverconstrainedError: (what) => `The chosen ${what} is gone. Choose another one.`,
  NotReadableError: (what) => `Another program has the ${what}, or it does not work.`,
  AbortError: (what) => `The ${what} could not be started.`,
};

/** A device could not be opened; the message is for people. */
export class NoDevice extends Error {
  constructor(what, cause) {
    const words = WORDS[cause.name] ?? ((what) => `The ${what} does not work: ${cause.message}.`);
    super(words(what), { cause });
    this.isRefusal = cause.name === "NotAllowedError";
  }
}

/** A microphone's track. `processed`: without noise and echo. */
export function openMicrophone(deviceId, processed) {
  const audio = {
    echoCancellation: processed,
    noiseSuppression: processed,
    autoGainControl: processed,
    channelCount: 1,
  };
  if (deviceId) audio.deviceId = { exact: deviceId };
  return open("microphone", { audio }, (stream) => stream.getAudioTracks()[0]);
}

/** A camera's track. */
export function openCamera(deviceId) {
  const video = deviceId ? { ...CAMERA, deviceId: { exact: deviceId } } : CAMERA;
  return open("camera", { video }, (stream) => stream.getVideoTracks()[0]);
}

/** `{microphones, cameras}`, `{id, label}` each; labels are empty until a device was allowed. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const of = (kind) =>
    devices
      .filter((device) => device.kind === kind && device.deviceId)
      .map((device) => ({ id: device.deviceId, label: device.label }));
  return { microphones: of("audioinput"), cameras: of("videoinput") };
}

async function open(what, constraints, track) {
  try {
    if (!navigator.mediaDevices) throw new Error("open the page as localhost or over https");
    return track(await navigator.mediaDevices.getUserMedia(constraints));
  } catch (error) {
    throw new NoDevice(what, error);
  }
}
