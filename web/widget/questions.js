/**
 * Asks one question at a time. Of the questions that come meanwhile only the newest waits, and the others are never asked.
 *
 * @template Question
 * @template Answer
 */
export class Questions {
  /**
   * @param {(question: Question) => Promise<Answer>} ask
   * @param {(question: Question, answer: Answer) => void} onAnswer
   * @param {(question: Question, error: unknown) => void} onRefusal
   */
  constructor(ask, onAnswer, onRefusal) {
    this._ask = ask;
    this._onAnswer = onAnswer;
    this._onRefusal = onRefusal;
    /** @type {Question | null} */
    this._next = null;
    this._asking = false;
  }

  /** @param {Question} question */
  put(question) {
    this._next = question;
    if (!this._asking) this._askAll();
  }

  /** Forget the question that waits. */
  drop() {
    this._next = null;
  }

  async _askAll() {
    this._asking = true;
    while (this._next) {
      const question = this._next;
      this._next = null;
      await this._ask(question).then(
        (answer) => this._onAnswer(question, answer),
        (error) => this._onRefusal(question, error),
      );
    }
    this._asking = false;
  }
}
