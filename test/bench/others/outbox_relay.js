// The relay that people write for an outbox: takes rows in batches, publishes them with ids, waits for all acknowledgments, and
// commits their removal. Looks again at once after rows, and every POLL ms after none.
//
// node outbox_relay.js URL SOCKET_DIRECTORY BATCH POLL; says "ready", and begins with the first line of its input
'use strict';
const { connect } = require('@nats-io/transport-node');
const { jetstream } = require('@nats-io/jetstream');
const { Client } = require('pg');
const { Publisher } = require('./publisher.js');
const { told } = require('./told.js');

const TAKE = `DELETE FROM bench.other_outbox WHERE id IN
	(SELECT id FROM bench.other_outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
	RETURNING id, subject, payload`;

async function relay(db, publisher, batch) {
	await db.query('BEGIN');
	const { rows } = await db.query({ name: 'take', text: TAKE, values: [batch] });
	for (const { id, subject, payload } of rows.sort((a, b) => a.id - b.id))
		await publisher.publish(subject, payload, `outbox-${id}`);
	await publisher.flush();
	await db.query('COMMIT');
	return rows.length;
}

async function main() {
	const [url, host, batch, poll] = process.argv.slice(2);
	const db = new Client({ host, user: 'postgres', database: 'postgres', application_name: 'bench_other' });
	await db.connect();
	const publisher = new Publisher(jetstream(await connect({ servers: url })));
	await told();
	for (;;)
		if (await relay(db, publisher, Number(batch)) === 0)
			await new Promise(resolve => setTimeout(resolve, Number(poll)));
}

main().catch(error => { console.error(error); process.exit(1); });
