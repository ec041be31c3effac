import { Component, type ReactNode } from 'react'

/** When the page itself breaks: says so and offers the way out. Nothing is lost, everything lives on the server. */
export class Boundary extends Component<{ children: ReactNode }, { broken: Error | null }> {
  override state = { broken: null as Error | null }

  static getDerivedStateFromError(broken: Error) {
    return { broken }
  }

  override render() {
    if (!this.state.broken) return this.props.children
    return (
      <main className="welcome" role="alert">
        <h1>The page has stopped working</h1>
        <p>Your library and conversations are safe on the server. ({this.state.broken.message})</p>
        <button className="primary" onClick={() => location.reload()}>
          Load the page again
        </button>
      </main>
    )
  }
}
