// Publishes without waiting for each message: 4096 are unacknowledged at most. Any failure ends the program.
'use strict';

const WINDOW = 4096;

class Publisher {
	constructor(js) {
		this.js = js;
		this.pending = 0;
		this.most = 0;
		this.wake = null;
	}

	async publish(subject, payload, msgID) {
		if (this.pending >= WINDOW)
			await this.fallsTo(WINDOW / 2);
		this.pending++;
		this.js.publish(subject, payload, { msgID, timeout: 60000 }).then(
			() => this.acknowledged(), error => { console.error(error); process.exit(1); });
	}

	flush() { return this.fallsTo(0); }

	fallsTo(most) {
		this.most = most;
		return this.pending <= most ? Promise.resolve() : new Promise(resolve => { this.wake = resolve; });
	}

	acknowledged() {
		if (--this.pending <= this.most && this.wake) {
			this.wake();
			this.wake = null;
		}
	}
}

module.exports = { Publisher };
