// Change data capture that people write themselves: rows that are inserted into a table are read from a slot with pgoutput,
// published as JSON with ids, and confirmed when they are acknowledged: after each 10,000, and each second.
//
// node cdc.js URL SOCKET_DIRECTORY SLOT PUBLICATION; says "ready", and begins with the first line of its input
'use strict';
const { connect } = require('@nats-io/transport-node');
const { jetstream } = require('@nats-io/jetstream');
const { LogicalReplicationService, PgoutputPlugin } = require('pg-logical-replication');
const { Publisher } = require('./publisher.js');
const { told } = require('./told.js');

const CONFIRM = 10000;

async function main() {
	const [url, host, slot, publication] = process.argv.slice(2);
	const publisher = new Publisher(jetstream(await connect({ servers: url })));
	const service = new LogicalReplicationService(
		{ host, user: 'postgres', database: 'postgres', application_name: 'bench_other' },
		{ acknowledge: { auto: false, timeoutSeconds: 0 }, flowControl: { enabled: true } });
	let number = 0, last = null, unconfirmed = 0;
	async function confirm() {
		await publisher.flush();
		unconfirmed = 0;
		await service.acknowledge(last);
	}
	service.on('data', async (lsn, message) => {
		if (message.tag === 'begin')
			number = 0;
		else if (message.tag === 'insert') {
			unconfirmed++;
			await publisher.publish('bench.a', JSON.stringify({ op: 'insert', table: message.relation.name, new: message.new }),
				`${lsn}-${number++}`);
		} else if (message.tag === 'commit') {
			last = lsn;
			if (unconfirmed >= CONFIRM)
				await confirm();
		}
	});
	setInterval(() => { if (last && unconfirmed && publisher.pending === 0) confirm(); }, 1000);
	service.on('error', error => { console.error(error); process.exit(1); });
	await told();
	await service.subscribe(new PgoutputPlugin({ protoVersion: 1, publicationNames: [publication] }), slot);
}

main().catch(error => { console.error(error); process.exit(1); });
