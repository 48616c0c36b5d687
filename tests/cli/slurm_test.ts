/** The README's Slurm array on a real Slurm of one node, where slurmctld and slurmd are installed and this is root. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inFolder, names } from "../folders.ts";
import { COMMAND, FIXTURES } from "./ldm.ts";

const PLACES = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/usr/local/sbin"];

/** Where a program is; "" where it is not. */
function find(program: string): string {
  const found = PLACES.map((place) => join(place, program)).find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
  return found ?? "";
}

const [CONTROLLER, NODE, SUBMIT] = ["slurmctld", "slurmd", "sbatch"].map(find);

/** A node of this machine, with as many processors as there are tasks; nobody else knows its ports. */
function configuration(folder: string, tasks: number, [controller, node]: readonly number[]) {
  const name = hostname().split(".")[0];
  return `ClusterName=ldm
SlurmctldHost=${name}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPort=${controller}
SlurmdPort=${node}
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/slurmd.pid
NodeName=${name} NodeAddr=127.0.0.1 CPUs=${tasks} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
`;
}

function freePorts(count: number): number[] {
  const listeners = Array.from({ length: count }, () => Deno.listen({ port: 0 }));
  const ports = listeners.map(({ addr }) => addr.transport === "tcp" ? addr.port : 0);
  for (const listener of listeners) listener.close();
  return ports;
}

const decoder = new TextDecoder();

/** Runs a script under Slurm and waits until it has ended well. */
async function submit(script: string, cwd: string, tasks: number): Promise<void> {
  await inFolder(async (folder) => {
    const config = join(folder, "slurm.conf");
    await Deno.mkdir(join(folder, "state"));
    await Deno.mkdir(join(folder, "spool"));
    await Deno.writeTextFile(config, configuration(folder, tasks, freePorts(2)));
    const env = { SLURM_CONF: config };
    const quiet = { env, stdin: "null", stdout: "null", stderr: "null" } as const;
    const daemons = [
      new Deno.Command(CONTROLLER, { args: ["-D", "-i"], ...quiet }).spawn(),
      new Deno.Command(NODE, { args: ["-D"], ...quiet }).spawn(),
    ];
    try {
      for (let attempt = 1;; attempt++) {
        const sbatch = new Deno.Command(SUBMIT, { args: ["--wait", script], cwd, env });
        const { code, stdout, stderr } = await sbatch.output();
        if (code === 0) return;
        const said = decoder.decode(stdout) + decoder.decode(stderr);
        const isStarting = /Unable to contact|controller/.test(said) && attempt < 40;
        ok(isStarting, said);
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    } finally {
      for (const daemon of daemons) daemon.kill("SIGTERM");
      for (const daemon of daemons) await daemon.status;
    }
  });
}

Deno.test({
  name: "the README's Slurm array makes every picture once",
  ignore: Deno.uid() !== 0 || [CONTROLLER, NODE, SUBMIT].includes(""),
  fn: () =>
    inFolder(async (cwd) => {
      const readme = await Deno.readTextFile(
        fileURLToPath(new URL("../../README.md", import.meta.url)),
      );
      const script = /^```bash\n(#!\/bin\/bash\n#SBATCH[^]*?)^```$/m.exec(readme)?.[1] ?? "";
      const quick = `${FIXTURES}/tiny/sd1 --steps 1 -W 32 -H 32`;
      const words = COMMAND.map((word) => `"${word}"`).join(" ");
      await Deno.writeTextFile(
        join(cwd, "job.sh"),
        script.replace("--array=1-8", "--array=1-3").replace("auto/8", "auto/3")
          .replace(/^#SBATCH --gpus.*\n/m, "") // there are none
          .replace("v1-5-pruned-emaonly.safetensors", quick)
          .replace(/^ldm /m, `${words} `),
      );
      const lines = Array.from({ length: 9 }, (_, i) => `fox ${i}`);
      await Deno.writeTextFile(join(cwd, "foxes.txt"), lines.join("\n"));
      await submit("job.sh", cwd, 3);
      const foxes = names(join(cwd, "foxes"));
      const pictures = foxes.filter((name) => name.endsWith(".png")).map((name) => parseInt(name));
      deepEqual(pictures.sort((a, b) => a - b), lines.map((_, i) => i));
      const journals = foxes.filter((name) => name.endsWith(".journal.jsonl"));
      equal(journals.length, 3, foxes.join());
    }),
});
