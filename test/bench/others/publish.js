// What a Node program reaches that publishes by the client of npm: node publish.js URL async|sync COUNT SIZE
//
// async has 4096 messages unacknowledged at most, sync waits for each; all have ids. Output as of baseline.c.
'use strict';
const { connect } = require('@nats-io/transport-node');
const { jetstream } = require('@nats-io/jetstream');
const { Publisher } = require('./publisher.js');

function microseconds() { return Number(process.hrtime.bigint()) / 1e3; }

async function publishSync(js, count, payload) {
	const took = [];
	for (let i = 0; i < count; i++) {
		const before = microseconds();
		await js.publish('bench.a', payload, { msgID: `node-${i}` });
		took.push(microseconds() - before);
	}
	return took.sort((a, b) => a - b);
}

async function publishAsync(js, count, payload) {
	const publisher = new Publisher(js);
	for (let i = 0; i < count; i++)
		await publisher.publish('bench.a', payload, `node-${i}`);
	await publisher.flush();
}

async function main() {
	const [url, mode, count, size] = process.argv.slice(2);
	const nc = await connect({ servers: url });
	const js = jetstream(nc);
	const payload = Buffer.alloc(Number(size), 'x');

	const before = process.cpuUsage(), started = microseconds();
	const took = await (mode === 'sync' ? publishSync : publishAsync)(js, Number(count), payload);
	const elapsed = microseconds() - started, used = process.cpuUsage(before);

	let line = `rate=${count / elapsed * 1e6} cpu_us=${(used.user + used.system) / count}`;
	if (took)
		line += ` p50_us=${took[took.length >> 1]} p99_us=${took[Math.floor(took.length * 0.99)]}`;
	console.log(line);
	await nc.close();
}

main().catch(error => { console.error(error); process.exit(1); });
