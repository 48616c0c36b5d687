/** What the executable may do, fixed when it is made: read and write files. No network, no programs, no libraries. */

/**
 * The variables that the program asks for by name. The first three are commander's; a terminal without colour is the
 * runtime's own business.
 */
export const ENVIRONMENT: readonly string[] = [
  "CLICOLOR_FORCE",
  "FORCE_COLOR",
  "NO_COLOR",
  "DENO_WEBGPU_BACKEND",
  "GHOSTTY_RESOURCES_DIR",
  "HOME",
  "JOB_COMPLETIONS",
  "JOB_COMPLETION_INDEX",
  "KITTY_WINDOW_ID",
  "LC_TERMINAL",
  "LDM_GRAPHICS",
  "LOCALAPPDATA",
  "LP_NUM_THREADS",
  "SLURM_ARRAY_TASK_COUNT",
  "SLURM_ARRAY_TASK_ID",
  "SLURM_ARRAY_TASK_MIN",
  "SLURM_ARRAY_TASK_STEP",
  "TERM",
  "TERM_PROGRAM",
  "TMUX",
  "USERPROFILE",
  "XDG_CACHE_HOME",
  "XDG_RUNTIME_DIR",
];

/**
 * The flags of `deno compile`, and of `deno run` for those who run the one JavaScript file. Nothing asks at run time:
 * what is not allowed fails. Modules from elsewhere are the one thing that Deno allows unasked.
 */
export const PERMISSIONS: readonly string[] = [
  "--no-prompt",
  "--allow-read",
  "--allow-write",
  `--allow-env=${ENVIRONMENT.join(",")}`,
  "--deny-import",
];
