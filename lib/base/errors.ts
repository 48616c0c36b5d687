/**
 * The errors a caller may want to catch. Each message is one sentence: what was being done, to what,
 * what is the case, what was needed, and the remedy if there is one.
 */

/** The request itself is wrong (an unknown option, a size that is not a multiple of 8). Exit code 2. */
export class UsageError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "UsageError";
}

/** A file cannot be used: truncated, lying, of an unknown format, or not of a supported architecture. Exit code 1. */
export class FormatError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "FormatError";
}

/** There is no usable device, or it failed or was lost while working. Exit code 1. */
export class DeviceError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "DeviceError";
}

/** The work needs more memory than the device or the budget has; the message names both numbers. Exit code 1. */
export class MemoryError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "MemoryError";
}

/** The work needs more than one command of the device can do, whatever its memory: only less work is a remedy. */
export class LimitError extends MemoryError {}

/** Numbers left the range of the arithmetic: what was computed is infinite or not a number. Exit code 1. */
export class OverflowError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "OverflowError";
}

/** A file or folder cannot be read or written: missing, no permission, a full disk. Exit code 1. */
export class FileError extends Error {
  /** Tells this kind of error from others across realms. */
  override readonly name = "FileError";
}
